package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func TestServicesElsewhereAreNamed(t *testing.T) {
	t.Parallel()
	read := func(arguments ...string) (config, error) {
		f := pflag.NewFlagSet("serve", pflag.ContinueOnError)
		addFlags(f)
		if err := f.Parse(append([]string{"--region", "eu-west-1"}, arguments...)); err != nil {
			t.Fatal(err)
		}
		return load(f, func(string) (string, bool) { return "", false })
	}
	for _, c := range []struct{ value, want string }{
		{"servicediscovery", "want NAME=URL"},
		{"route53=aws", "where NAME is one of acm,"},
		{"acm=", "want aws, or a URL"},
		{"acm=ftp://a", "want aws, or a URL"},
		{"acm=aws,acm=aws", "names acm twice"},
	} {
		if _, err := read("--aws-service", c.value); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.value, err, c.want)
		}
	}
	for _, c := range []struct {
		arguments        []string
		region, endpoint string
	}{
		{[]string{"--aws-service", "servicediscovery=aws"}, "eu-west-1", ""},
		{[]string{"--aws-service", "acm=aws", "--aws-service", "servicediscovery=http://127.0.0.1:5000"}, "eu-west-1", "http://127.0.0.1:5000"},
		{[]string{"--aws-service", "servicediscovery=aws", "--cloudmap-region", "us-east-1"}, "us-east-1", ""},
		{[]string{"--aws-service", "acm=aws"}, "", ""},
	} {
		got, err := read(c.arguments...)
		if err != nil || got.CloudMapRegion != c.region || got.CloudMapEndpoint != c.endpoint {
			t.Errorf("%v: instances are looked up in %q at %q, %v", c.arguments, got.CloudMapRegion, got.CloudMapEndpoint, err)
		}
	}
}

func TestServicesThatDecideAreServices(t *testing.T) {
	t.Parallel()
	for name := range deciding {
		if !slices.Contains(switchable, name) {
			t.Errorf("%s is no service that can be elsewhere", name)
		}
	}
}
