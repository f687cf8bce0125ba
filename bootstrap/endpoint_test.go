package bootstrap

import (
	"net/url"
	"strings"
	"testing"

	"github.com/nodejoin/nodejoin/agent/fault"
)

var goodEndpoints = []struct{ name, text, want string }{
	{"host and port", "api.example.com:6443", "api.example.com:6443"},
	{"host alone", "api.example.com", "api.example.com:6443"},
	{"short name", "cp1", "cp1:6443"},
	{"upper case", "API.Example.COM:443", "api.example.com:443"},
	{"IPv4", "192.0.2.1:8443", "192.0.2.1:8443"},
	{"IPv4 alone", "192.0.2.1", "192.0.2.1:6443"},
	{"IPv6", "[2001:db8::1]:8443", "[2001:db8::1]:8443"},
	{"IPv6 alone", "[2001:DB8::1]", "[2001:db8::1]:6443"},
	{"IPv6 without brackets", "2001:db8::1", "[2001:db8::1]:6443"},
	{"URL", "https://api.example.com:6443", "api.example.com:6443"},
	{"URL without a port", "https://api.example.com", "api.example.com:443"},
	{"URL with a slash", "https://api.example.com:6443/", "api.example.com:6443"},
	{"URL of IPv6", "https://[2001:db8::1]:6443", "[2001:db8::1]:6443"},
	{"URL of IPv6 without a port", "https://[2001:db8::1]", "[2001:db8::1]:443"},
	{"URL in upper case", "HTTPS://API.example.com", "api.example.com:443"},
	{"lowest port", "cp1:1", "cp1:1"},
	{"highest port", "cp1:65535", "cp1:65535"},
	{"port with a leading zero", "cp1:06443", "cp1:6443"},
}

var badEndpoints = []struct{ name, text, want string }{
	{"empty", "", "no valid host name"},
	{"port alone", ":6443", "no valid host name"},
	{"http", "http://api.example.com:6443", "not an https URL"},
	{"another scheme", "unix://run/api.sock", "not an https URL"},
	{"user information", "https://admin:" + testTokenSecret + "@api.example.com", "user information"},
	{"user information over http", "http://admin:" + testTokenSecret + "@api.example.com", "user information"},
	{"user information without a scheme", "admin:" + testTokenSecret + "@api.example.com:6443", "user information"},
	{"user name alone", "admin@api.example.com", "user information"},
	{"user information in a URL that cannot be parsed", "https://admin:" + testTokenSecret + "%zz@api.example.com", "cannot be parsed"},
	{"path", "https://api.example.com:6443/k8s/clusters/c-1", "has a path"},
	{"path without a scheme", "api.example.com:6443/path", "the port"},
	{"path without port", "api.example.com/path", "no valid host name"},
	{"query", "https://api.example.com/?a=b", "has a path"},
	{"fragment", "https://api.example.com/#a", "has a path"},
	{"port 0", "api.example.com:0", `the port "0"`},
	{"port 70000", "api.example.com:70000", `the port "70000"`},
	{"port 65536", "api.example.com:65536", `the port "65536"`},
	{"negative port", "api.example.com:-1", `the port "-1"`},
	{"port with a sign", "api.example.com:+6443", `the port "+6443"`},
	{"port that overflows", "api.example.com:18446744073709551617", "the port"},
	{"port that is a name", "api.example.com:https", `the port "https"`},
	{"empty port", "api.example.com:", `the port ""`},
	{"URL with port 70000", "https://api.example.com:70000", `the port "70000"`},
	{"URL with port 0", "https://api.example.com:0", `the port "0"`},
	{"URL without a host", "https://", "no valid host name"},
	{"URL with a port alone", "https://:6443", "no valid host name"},
	{"white space", "api example com:6443", "no valid host name"},
	{"final newline", "api.example.com\n", "no valid host name"},
	{"underscore", "api_server:6443", "no valid host name"},
	{"too long", strings.Repeat("a", 254) + ":6443", "no valid host name"},
	{"a zone", "[fe80::1%eth0]:6443", "no valid host name"},
	{"a zone that is a path", "fe80::1%/../../etc", "no valid host name"},
	{"bracket left open", "[2001:db8::1", "no valid host name"},
	{"brackets the wrong way round", "]cp1[", "no valid host name"},
	{"a bootstrap token", testTokenText, "a bootstrap token stands in the place of the API server"},
	{"a bootstrap token with its newline", testTokenText + "\n", "a bootstrap token stands"},
	{"a bootstrap token in upper case", strings.ToUpper(testTokenText), "a bootstrap token stands"},
}

func TestParseEndpoint(t *testing.T) {
	for _, test := range goodEndpoints {
		t.Run(test.name, func(t *testing.T) {
			e, err := ParseEndpoint(test.text)
			if err != nil {
				t.Fatal(err)
			}
			if got := e.String(); got != test.want {
				t.Errorf("String() = %q, want %q", got, test.want)
			}
			if got, want := e.URL(), "https://"+test.want; got != want {
				t.Errorf("URL() = %q, want %q", got, want)
			}
			if e.IsZero() {
				t.Error("an endpoint that was parsed is zero")
			}
		})
	}
	for _, test := range badEndpoints {
		t.Run(test.name, func(t *testing.T) {
			e, err := ParseEndpoint(test.text)
			wantFault(t, err, fault.Usage, test.want)
			if !e.IsZero() {
				t.Errorf("the endpoint %s came with the error", e)
			}
		})
	}
}

func TestParseProxyURL(t *testing.T) {
	for _, text := range []string{"http://proxy:3128", "socks5://127.0.0.1:1080", "http://user:pass@proxy:3128"} {
		if u, err := ParseProxyURL(text); err != nil || u.String() != text {
			t.Errorf("ParseProxyURL(%q) = %v, %v", text, u, err)
		}
	}
	if u, err := ParseProxyURL(""); err != nil || u != (*url.URL)(nil) {
		t.Errorf("no proxy: got %v, %v", u, err)
	}
	for name, text := range map[string]string{
		"no scheme":             "proxy:3128",
		"host alone":            "proxy",
		"https":                 "https://proxy.example.com",
		"ftp":                   "ftp://proxy:21",
		"a file":                "file:///etc/passwd",
		"no host":               "http://",
		"a password, no host":   "http://user:" + testTokenSecret + "@",
		"a password, malformed": "http://user:" + testTokenSecret + "%zz@proxy",
		"a password, ftp":       "ftp://user:" + testTokenSecret + "@proxy",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseProxyURL(text)
			wantFault(t, err, fault.Usage, "the proxy's URL is not one")
		})
	}
}

func TestCheckServerName(t *testing.T) {
	for _, name := range []string{"", "kubernetes", "api.example.com"} {
		if err := CheckServerName(name); err != nil {
			t.Errorf("CheckServerName(%q): %v", name, err)
		}
	}
	for _, name := range []string{"API.example.com", "api.example.com:6443", "a b", "*.example.com", "-", "a\nb"} {
		wantFault(t, CheckServerName(name), fault.Usage, "is not a DNS name")
	}
}
