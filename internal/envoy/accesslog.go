package envoy

import (
	"fmt"
	"slices"
	"strings"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filelogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	formatterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/formatter/req_without_query/v3"
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
		log.AccessLogFormat = logFormat(format, &corev3.SubstitutionFormatString{Format: &corev3.SubstitutionFormatString_TextFormatSource{
			TextFormatSource: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: format.Text}},
		}})
	case len(format.JSON) > 0:
		fields := map[string]*structpb.Value{}
		for _, f := range format.JSON {
			fields[f.Key] = structpb.NewStringValue(f.Value)
		}
		log.AccessLogFormat = logFormat(format, &corev3.SubstitutionFormatString{Format: &corev3.SubstitutionFormatString_JsonFormat{
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

// logFormat has the extension that one of the commands needs, where it is used.
func logFormat(used *api.LoggingFormat, f *corev3.SubstitutionFormatString) *filelogv3.FileAccessLog_LogFormat {
	if strings.Contains(used.Text, withoutQuery) || slices.ContainsFunc(used.JSON, func(x api.JSONFormatRef) bool { return strings.Contains(x.Value, withoutQuery) }) {
		f.Formatters = []*corev3.TypedExtensionConfig{{Name: "envoy.formatter.req_without_query", TypedConfig: pack(&formatterv3.ReqWithoutQuery{})}}
	}
	return &filelogv3.FileAccessLog_LogFormat{LogFormat: f}
}

// withoutQuery begins the command whose extension has to be named (OBS-004). In
// plain text it does no harm.
const withoutQuery = "%REQ_WITHOUT_QUERY("

func logFile(own *api.Resource) (path string, format *api.LoggingFormat) {
	if s := own.VirtualNodeSpec(); s != nil && s.Logging != nil && s.Logging.AccessLog != nil && s.Logging.AccessLog.File != nil {
		return s.Logging.AccessLog.File.Path, s.Logging.AccessLog.File.Format
	}
	if s := own.VirtualGatewaySpec(); s != nil && s.Logging != nil && s.Logging.AccessLog != nil && s.Logging.AccessLog.File != nil {
		return s.Logging.AccessLog.File.Path, s.Logging.AccessLog.File.Format
	}
	return "", nil
}
