package relay

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/smithy-go/logging"
)

// versionTwo asks the instance's metadata service for credentials by its version 2 alone (AGENT-048). The SDK falls back
// to version 1 where no token is given, which whoever can have this machine send a request could make use of.
type versionTwo struct{ *imds.Client }

// use has credentials that come from the metadata service come by v.
func (v *versionTwo) use(o *ec2rolecreds.Options) { o.Client = v }

// prepare makes the client, as the settings have it but for the fallback.
func (v *versionTwo) prepare(settings aws.Config) {
	v.Client = imds.NewFromConfig(settings, func(o *imds.Options) { o.EnableFallback = aws.FalseTernary })
}

// sdkLog has the SDK log as the agent does, to its level and in its form.
func (c *chain) sdkLog(log *slog.Logger) logging.Logger {
	return logging.LoggerFunc(func(of logging.Classification, format string, v ...any) {
		level := slog.LevelDebug
		if of == logging.Warn {
			level = slog.LevelWarn
		}
		text := c.discreet(fmt.Errorf(format, v...)).Error()
		log.Log(context.Background(), level, "aws sdk", "text", reason([]byte(text)))
	})
}
