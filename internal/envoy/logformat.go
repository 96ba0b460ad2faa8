package envoy

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
)

// checkFormat says what is wrong with an access log's format. Envoy refuses a
// listener with a wrong one, and with it everything else of the node (EMS-050).
func checkFormat(format *api.LoggingFormat) error {
	if format == nil {
		return nil
	}
	if err := checkText(format.Text); err != nil {
		return fmt.Errorf("text: %w", err)
	}
	for _, f := range format.JSON {
		if err := checkText(f.Value); err != nil {
			return fmt.Errorf("json, key %s: %w", f.Key, err)
		}
	}
	return nil
}

// command is one of Envoy's, such as %REQ(USER-AGENT?X-AGENT):20%.
var command = regexp.MustCompile(`^%([A-Z0-9_]+)(?:\(([^)]*)\))?(:[0-9]+)?%`)

func checkText(text string) error {
	for {
		i := strings.IndexByte(text, '%')
		if i < 0 {
			return nil
		}
		text = text[i:]
		if strings.HasPrefix(text, "%%") {
			text = text[2:]
			continue
		}
		m := command.FindStringSubmatch(text)
		if m == nil {
			return fmt.Errorf("what begins with %.20q is no command: write %%%% for a percent sign", text)
		}
		if err := checkCommand(m[1], m[2], m[3]); err != nil {
			return fmt.Errorf("%s: %w", m[0], err)
		}
		text = text[len(m[0]):]
	}
}

// checkCommand takes what both the oldest and the newest Envoy take. To them, too, empty parentheses are none.
func checkCommand(name, parameter, length string) error {
	takes, known := commands[name]
	switch {
	case !known:
		return fmt.Errorf("there is no command %s, or not in every Envoy, or its parameter cannot be checked", name)
	case length != "" && !takes.length:
		return fmt.Errorf("%s takes no length", name)
	case len(length) > len(":999999999999999999"): // what 64 bits can hold
		return errors.New("the length is too long")
	case parameter == "" && takes.needed:
		return fmt.Errorf("%s needs a parameter", name)
	case parameter == "":
		return nil
	case takes.parameter == nil:
		return fmt.Errorf("%s takes no parameter", name)
	case !takes.parameter.MatchString(parameter) || takes.never != nil && takes.never.MatchString(parameter):
		return fmt.Errorf("the parameter of %s is not as Envoy takes it", name)
	}
	return nil
}

// takes is what may follow a command's name.
type takes struct {
	parameter *regexp.Regexp // nil: none
	never     *regexp.Regexp // what must be nowhere in it; nil: nothing
	needed    bool
	length    bool
}

// commands are those of Envoy 1.36, which later ones have too.
var commands = commandTable()

func commandTable() map[string]takes {
	out := map[string]takes{}
	put := func(t takes, names string) {
		for name := range strings.FieldsSeq(names) {
			out[name] = t
		}
	}
	moment := takes{parameter: regexp.MustCompile(`^` + anyText + `$`), never: regexp.MustCompile(lineBreak)}
	put(takes{}, bareCommands)
	for _, side := range []string{"DOWNSTREAM_", "UPSTREAM_"} {
		for name := range strings.FieldsSeq(sideCommands) {
			out[side+name] = takes{}
		}
		put(moment, side+"PEER_CERT_V_START "+side+"PEER_CERT_V_END")
	}
	put(moment, "START_TIME START_TIME_LOCAL EMIT_TIME EMIT_TIME_LOCAL")
	put(takes{parameter: regexp.MustCompile(`^ALLOW_WHITESPACES$`)}, "RESPONSE_CODE_DETAILS")
	put(takes{parameter: regexp.MustCompile(`^:?[!#-'*+.0-9A-Z^-z|~-]+(\?:?[!#-'*+.0-9A-Z^-z|~-]+)?$`), needed: true, length: true}, "REQ RESP TRAILER REQ_WITHOUT_QUERY STREAM_INFO_REQ")
	put(takes{parameter: regexp.MustCompile(`^` + anyText + `$`), needed: true, length: true}, "QUERY_PARAM ENVIRONMENT")
	put(takes{parameter: regexp.MustCompile(`^` + part + `(:(PLAIN|TYPED|FIELD(:` + part + `)+))?$`), needed: true, length: true}, "FILTER_STATE UPSTREAM_FILTER_STATE")
	put(takes{parameter: regexp.MustCompile(`^` + part + `(:` + part + `)*$`), needed: true}, "DYNAMIC_METADATA CLUSTER_METADATA UPSTREAM_METADATA")
	put(takes{parameter: regexp.MustCompile(`^(DYNAMIC|CLUSTER|ROUTE|UPSTREAM_HOST|LISTENER|VIRTUAL_HOST)(:` + part + `)*$`), needed: true, length: true}, "METADATA")
	put(takes{parameter: regexp.MustCompile(`^(CAMEL_STRING|SNAKE_STRING|NUMBER)$`)}, "GRPC_STATUS")
	put(takes{parameter: regexp.MustCompile(`^(WQ|NQ)(:(ORIG|PATH|ORIG_OR_PATH))?$`), length: true}, "PATH")
	put(takes{parameter: regexp.MustCompile(`^` + part + `:` + part + `(:(ms|us|ns))?$`), needed: true}, "COMMON_DURATION")
	return out
}

// Parameters are whatever has no control character. Some have parts with colons between them.
const (
	anyText = `[^\x00-\x1f\x7f]+`
	part    = `[^:\x00-\x1f\x7f]+`
)

// lineBreak is what Envoy refuses in a format of strftime, and a width that is no number of digits.
const lineBreak = `%[-_0^#]*[1-9]*[EO]?n|%[^%A-Za-z]*[0-9]{4}`

const bareCommands = `ACCESS_LOG_TYPE BYTES_RECEIVED BYTES_RETRANSMITTED BYTES_SENT CONNECTION_ID CONNECTION_TERMINATION_DETAILS
CUSTOM_FLAGS DOWNSTREAM_DIRECT_LOCAL_ADDRESS DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT DOWNSTREAM_DIRECT_LOCAL_PORT
DOWNSTREAM_DIRECT_REMOTE_ADDRESS DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT DOWNSTREAM_DIRECT_REMOTE_PORT
DOWNSTREAM_HANDSHAKE_DURATION DOWNSTREAM_LOCAL_EMAIL_SAN DOWNSTREAM_LOCAL_OTHERNAME_SAN DOWNSTREAM_LOCAL_SUBJECT
DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1 DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256 DOWNSTREAM_PEER_CHAIN_SERIALS
DOWNSTREAM_PEER_EMAIL_SAN DOWNSTREAM_PEER_FINGERPRINT_1 DOWNSTREAM_PEER_FINGERPRINT_256 DOWNSTREAM_PEER_OTHERNAME_SAN
DOWNSTREAM_PEER_SERIAL DURATION FILTER_CHAIN_NAME GRPC_STATUS_NUMBER HOSTNAME LOCAL_REPLY_BODY PACKETS_RETRANSMITTED PROTOCOL
REQUESTED_SERVER_NAME REQUEST_DURATION REQUEST_HEADERS_BYTES REQUEST_TX_DURATION RESPONSE_CODE RESPONSE_DURATION RESPONSE_FLAGS
RESPONSE_FLAGS_LONG RESPONSE_HEADERS_BYTES RESPONSE_TRAILERS_BYTES RESPONSE_TX_DURATION ROUNDTRIP_DURATION ROUTE_NAME STREAM_ID
TLS_JA3_FINGERPRINT TLS_JA4_FINGERPRINT TRACE_ID UNIQUE_ID UPSTREAM_CLUSTER UPSTREAM_CLUSTER_RAW UPSTREAM_CONNECTION_ID
UPSTREAM_CONNECTION_POOL_READY_DURATION UPSTREAM_HOST UPSTREAM_HOST_NAME UPSTREAM_HOST_NAME_WITHOUT_PORT UPSTREAM_PROTOCOL
UPSTREAM_REQUEST_ATTEMPT_COUNT VIRTUAL_CLUSTER_NAME`

// sideCommands are there with DOWNSTREAM_ and with UPSTREAM_ in front.
const sideCommands = `DECOMPRESSED_HEADER_BYTES_RECEIVED DECOMPRESSED_HEADER_BYTES_SENT HEADER_BYTES_RECEIVED HEADER_BYTES_SENT
LOCAL_ADDRESS LOCAL_ADDRESS_WITHOUT_PORT LOCAL_DNS_SAN LOCAL_IP_SAN LOCAL_PORT LOCAL_URI_SAN PEER_CERT PEER_DNS_SAN PEER_IP_SAN
PEER_ISSUER PEER_SUBJECT PEER_URI_SAN REMOTE_ADDRESS REMOTE_ADDRESS_WITHOUT_PORT REMOTE_PORT TLS_CIPHER TLS_SESSION_ID TLS_VERSION
TRANSPORT_FAILURE_REASON WIRE_BYTES_RECEIVED WIRE_BYTES_SENT`
