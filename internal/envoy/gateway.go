package envoy

import "github.com/evermesh/evermesh/internal/api"

func (b *build) gateway(*api.VirtualGatewaySpec) {}
