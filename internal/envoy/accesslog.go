package envoy

import (
	"fmt"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filelogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

// accessLog is the client's file access log; it is on every chain, inbound and
// outbound. One with a format that Envoy would refuse is left out.
func (b *build) accessLog() []*accesslogv3.AccessLog {
	path, format := logFile(b.own)
	if path == "" || checkFormat(format) != nil {
		return nil
	}
	log := &filelogv3.FileAccessLog{Path: path}
	switch {
	case format == nil:
	case format.Text != "":
		log.AccessLogFormat = logFormat(&corev3.SubstitutionFormatString{Format: &corev3.SubstitutionFormatString_TextFormatSource{
			TextFormatSource: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: format.Text}},
		}})
	case len(format.JSON) > 0:
		fields := map[string]*structpb.Value{}
		for _, f := range format.JSON {
			fields[f.Key] = structpb.NewStringValue(f.Value)
		}
		log.AccessLogFormat = logFormat(&corev3.SubstitutionFormatString{Format: &corev3.SubstitutionFormatString_JsonFormat{
			JsonFormat: &structpb.Struct{Fields: fields},
		}})
	}
	return []*accesslogv3.AccessLog{{
		Name: "envoy.access_loggers.file", ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: pack(log)},
	}}
}

// checkLog tells of a format that Envoy would refuse.
func (b *build) checkLog() {
	path, format := logFile(b.own)
	if err := checkFormat(format); path != "" && err != nil {
		b.report([]mesh.Problem{{Key: b.own.Key, Reason: ReasonInvalid, Message: fmt.Sprintf("spec.logging.accessLog.file.format: %v; no access log is written until it is changed", err)}})
	}
}

func logFormat(f *corev3.SubstitutionFormatString) *filelogv3.FileAccessLog_LogFormat {
	return &filelogv3.FileAccessLog_LogFormat{LogFormat: f}
}

func logFile(own *api.Resource) (path string, format *api.LoggingFormat) {
	if s := own.VirtualNodeSpec(); s != nil && s.Logging != nil && s.Logging.AccessLog != nil && s.Logging.AccessLog.File != nil {
		return s.Logging.AccessLog.File.Path, s.Logging.AccessLog.File.Format
	}
	if s := own.VirtualGatewaySpec(); s != nil && s.Logging != nil && s.Logging.AccessLog != nil && s.Logging.AccessLog.File != nil {
		return s.Logging.AccessLog.File.Path, s.Logging.AccessLog.File.Format
	}
	return "", nil
}
