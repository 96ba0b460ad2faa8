package auth

import "github.com/evermesh/evermesh/internal/api"

func missing() error {
	return api.Errorf(api.CodeMissingAuthenticationToken, "Missing Authentication Token")
}
