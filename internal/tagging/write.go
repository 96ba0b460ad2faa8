package tagging

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/taggingapi"
	"github.com/evermesh/evermesh/internal/service"
)

func (s *Server) tag(ctx context.Context, c *service.Call, in *taggingapi.TagResourcesInput) (*taggingapi.TagResourcesOutput, error) {
	tags := []any{}
	for _, key := range slices.Sorted(maps.Keys(in.Tags)) {
		tags = append(tags, map[string]any{"key": key, "value": in.Tags[key]})
	}
	if err := c.Allow(ctx, "*", service.RequestTags(maps.All(in.Tags))); err != nil {
		return nil, err
	}
	failed, err := s.each(ctx, c, in.ResourceARNLIst, "TagResource", func(arn string) map[string]any {
		return map[string]any{"resourceArn": arn, "tags": tags}
	})
	return &taggingapi.TagResourcesOutput{FailedResourcesMap: failed}, err
}

func (s *Server) untag(ctx context.Context, c *service.Call, in *taggingapi.UntagResourcesInput) (*taggingapi.UntagResourcesOutput, error) {
	if err := c.Allow(ctx, "*", map[string][]string{"aws:tagkeys": in.TagKeys}); err != nil {
		return nil, err
	}
	keys := []any{}
	for _, key := range in.TagKeys {
		keys = append(keys, key)
	}
	failed, err := s.each(ctx, c, in.ResourceARNLIst, "UntagResource", func(arn string) map[string]any {
		return map[string]any{"resourceArn": arn, "tagKeys": keys}
	})
	return &taggingapi.UntagResourcesOutput{FailedResourcesMap: failed}, err
}

// each does an operation of App Mesh for each ARN, and tells where it was refused. Any
// other error is of the whole: what could not be done may be tried again.
func (s *Server) each(ctx context.Context, c *service.Call, arns []string, operation string, input func(arn string) map[string]any) (map[string]taggingapi.FailureInfo, error) {
	failed := map[string]taggingapi.FailureInfo{}
	for _, arn := range arns {
		_, err := s.Do(ctx, c, operation, input(arn))
		var refusal *api.Error
		switch {
		case err == nil:
		case errors.As(err, &refusal):
			code := taggingapi.ErrorCodeInvalidParameterException
			if refusal.Status() >= 500 {
				code = taggingapi.ErrorCodeInternalServiceException
			}
			failed[arn] = taggingapi.FailureInfo{ErrorCode: code, ErrorMessage: new(refusal.Message), StatusCode: new(int64(refusal.Status()))}
		default:
			return nil, err
		}
	}
	return failed, nil
}
