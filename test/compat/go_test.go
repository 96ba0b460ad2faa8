package compat

import (
	"context"
	"errors"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/appmesh"
	"github.com/aws/aws-sdk-go-v2/service/appmesh/types"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// goClient is AWS's SDK for Go. Its inputs and outputs are typed; fill and
// spread turn documents into them and back.
type goClient struct{ c *appmesh.Client }

func newGoClient(_ testing.TB, e endpoint) client {
	options := appmesh.Options{
		BaseEndpoint: &e.url, Region: e.region, RetryMaxAttempts: 1,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return e.key, nil }),
	}
	if e.wrong != (wrong{}) {
		options.HTTPSignerV4, options.APIOptions = signer{e.wrong}, []func(*middleware.Stack) error{e.wrong.change}
	}
	return &goClient{appmesh.New(options)}
}

// signer is the SDK's signer with a clock that may be wrong, or none.
type signer struct{ wrong wrong }

func (s signer) SignHTTP(ctx context.Context, key aws.Credentials, r *http.Request, sum, service, region string, at time.Time, options ...func(*v4.SignerOptions)) error {
	if s.wrong.Unsigned {
		return nil
	}
	return v4.NewSigner().SignHTTP(ctx, key, r, sum, service, region, at.Add(time.Duration(s.wrong.Clock)*time.Second), options...)
}

// change changes a request before it is signed.
func (w wrong) change(stack *middleware.Stack) error {
	return stack.Build.Add(middleware.BuildMiddlewareFunc("wrong", func(ctx context.Context, in middleware.BuildInput, next middleware.BuildHandler) (middleware.BuildOutput, middleware.Metadata, error) {
		r := in.Request.(*smithyhttp.Request)
		if w.Method != "" {
			r.Method = w.Method
		}
		if w.ContentType != "" {
			r.Header.Set("Content-Type", w.ContentType)
		}
		return next.HandleBuild(ctx, in)
	}), middleware.After)
}

// with is the client with other options.
func (g *goClient) with(o appmesh.Options) *goClient { return &goClient{appmesh.New(o)} }

func (g *goClient) call(ctx context.Context, operation string, input map[string]any) (map[string]any, error) {
	method := reflect.ValueOf(g.c).MethodByName(operation)
	in := reflect.New(method.Type().In(1).Elem())
	fill(in.Elem(), input)
	out := method.Call([]reflect.Value{reflect.ValueOf(ctx), in})
	if err, _ := reflect.TypeAssert[error](out[1]); err != nil {
		return nil, understood(err)
	}
	return spread(out[0]).(map[string]any), nil
}

func (g *goClient) all(ctx context.Context, operation string, input map[string]any) (int, error) {
	mesh := aws.String(input["meshName"].(string))
	pages := appmesh.NewListVirtualNodesPaginator(g.c, &appmesh.ListVirtualNodesInput{MeshName: mesh}, func(o *appmesh.ListVirtualNodesPaginatorOptions) { o.Limit = 2 })
	n := 0
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return n, understood(err)
		}
		n += len(page.VirtualNodes)
	}
	return n, nil
}

// understood is what the SDK made of an error answer.
func understood(err error) error {
	var f failure
	var known smithy.APIError
	if !errors.As(err, &known) {
		return err
	}
	f.Code, f.Message = known.ErrorCode(), known.ErrorMessage()
	if _, generic := known.(*smithy.GenericAPIError); !generic {
		f.Type = reflect.TypeOf(known).Elem().Name()
	}
	if answer, ok := errors.AsType[*smithyhttp.ResponseError](err); ok {
		f.Status = answer.HTTPStatusCode()
	}
	return &f
}

// unions are the members that the story uses of the SDK's unions.
var unions = map[string]any{
	"Backend.virtualService":                &types.BackendMemberVirtualService{},
	"ServiceDiscovery.dns":                  &types.ServiceDiscoveryMemberDns{},
	"ServiceDiscovery.awsCloudMap":          &types.ServiceDiscoveryMemberAwsCloudMap{},
	"VirtualServiceProvider.virtualNode":    &types.VirtualServiceProviderMemberVirtualNode{},
	"VirtualServiceProvider.virtualRouter":  &types.VirtualServiceProviderMemberVirtualRouter{},
	"HeaderMatchMethod.prefix":              &types.HeaderMatchMethodMemberPrefix{},
	"HeaderMatchMethod.range":               &types.HeaderMatchMethodMemberRange{},
	"ListenerTimeout.http":                  &types.ListenerTimeoutMemberHttp{},
	"VirtualNodeConnectionPool.http":        &types.VirtualNodeConnectionPoolMemberHttp{},
	"AccessLog.file":                        &types.AccessLogMemberFile{},
	"VirtualGatewayAccessLog.file":          &types.VirtualGatewayAccessLogMemberFile{},
	"VirtualGatewayConnectionPool.http":     &types.VirtualGatewayConnectionPoolMemberHttp{},
	"GrpcRouteMetadataMatchMethod.exact":    &types.GrpcRouteMetadataMatchMethodMemberExact{},
	"ListenerTlsCertificate.file":           &types.ListenerTlsCertificateMemberFile{},
	"TlsValidationContextTrust.file":        &types.TlsValidationContextTrustMemberFile{},
	"ListenerTlsValidationContextTrust.sds": &types.ListenerTlsValidationContextTrustMemberSds{},
}

// fill sets v to the document: member names begin with capitals in Go, unions
// are interfaces.
func fill(v reflect.Value, doc any) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), doc)
	case reflect.Struct:
		for name, member := range doc.(map[string]any) {
			fill(v.FieldByName(strings.ToUpper(name[:1])+name[1:]), member)
		}
	case reflect.Interface:
		for name, member := range doc.(map[string]any) {
			made := reflect.New(reflect.TypeOf(unions[v.Type().Name()+"."+name]).Elem())
			fill(made.Elem().FieldByName("Value"), member)
			v.Set(made)
		}
	case reflect.Slice:
		items := doc.([]any)
		v.Set(reflect.MakeSlice(v.Type(), len(items), len(items)))
		for i, item := range items {
			fill(v.Index(i), item)
		}
	default:
		v.Set(reflect.ValueOf(doc).Convert(v.Type()))
	}
}

// spread is the inverse of fill. What is not set is left out.
func spread(v reflect.Value) any {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return nil
		}
		if t, ok := reflect.TypeAssert[*time.Time](v); ok {
			return t.UTC().Format(time.RFC3339Nano)
		}
		if v.Kind() == reflect.Interface {
			made := v.Elem().Elem()
			_, member, _ := strings.Cut(made.Type().Name(), "Member")
			return map[string]any{strings.ToLower(member[:1]) + member[1:]: spread(made.FieldByName("Value"))}
		}
		return spread(v.Elem())
	case reflect.Struct:
		out := map[string]any{}
		for i := range v.NumField() {
			name := v.Type().Field(i).Name
			if !v.Type().Field(i).IsExported() || name == "ResultMetadata" {
				continue
			}
			if member := spread(v.Field(i)); member != nil {
				out[strings.ToLower(name[:1])+name[1:]] = member
			}
		}
		return out
	case reflect.Slice:
		if v.IsNil() {
			return nil
		}
		out := make([]any, v.Len())
		for i := range out {
			out[i] = spread(v.Index(i))
		}
		return out
	case reflect.String:
		if v.String() == "" && v.Type() != reflect.TypeFor[string]() {
			return nil // an enum that is not set
		}
		return v.String()
	case reflect.Bool:
		return v.Bool()
	default:
		return float64(v.Int())
	}
}
