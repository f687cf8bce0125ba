package status

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodejoin/nodejoin/agent/fault"
)

var now = time.Date(2026, 11, 24, 3, 0, 0, 0, time.UTC)

func ago(d time.Duration) time.Time { return now.Add(-d) }

func in(d time.Duration) time.Time { return now.Add(d) }

// healthy returns a node where all is well.
func healthy() *Status {
	return &Status{
		Version: "v0.3.0", Running: true, PID: 812, Since: ago(4 * day), Node: "node-7", Rotation: "agent",
		Kubeconfig: "/etc/kubernetes/kubelet.conf", ConfigFile: "/etc/nodejoin/config.yaml", ConfigLoaded: ago(4 * day),
		Certificates: []Certificate{{
			Name: "kubelet-client", State: Valid, Path: "/var/lib/kubelet/pki/kubelet-client-current.pem",
			Subject: "CN=system:node:node-7,O=system:nodes", Serial: "1b2fb26faab9cf3327a0dc9071f8ed4d", Issuer: "CN=kubernetes",
			NotBefore: ago(162 * day), NotAfter: in(203*day + 5*time.Hour), RotateAt: in(129 * day), Beat: ago(20 * time.Second),
		}},
		Credential: "the node's own certificate",
		Endpoints: []Endpoint{
			{Address: "api1:6443", Alive: true, InUse: true, CheckedAt: ago(12 * time.Second)},
			{Address: "api2:6443", Alive: true, CheckedAt: ago(5 * time.Minute)},
		},
		CA: CA{
			Path: "/etc/kubernetes/pki/ca.crt", Source: "cluster-info", CheckedAt: ago(4 * time.Minute),
			Certificates: []CACertificate{{Subject: "CN=kubernetes", Pin: "sha256:c778a2b0677519ce4c30844c5c93eb2ff69cbfa4ad7a2e542e2eca1e245cdaa6", NotAfter: in(3650 * day), Pinned: true}},
		},
		Watching: true, Beat: ago(20 * time.Second),
	}
}

// The document is a stable format: this is what scripts read.
func TestJSON(t *testing.T) {
	s := fresh()
	s.Since = s.Since.In(time.FixedZone("somewhere", 3600)).Add(123456789)
	s.ClockSkew = -187250400 * time.Microsecond
	s.Certificates[0].Request = waitingFor(false, "system:bootstrap:abcdef", 3*time.Minute)
	s.Problem = &Problem{Text: "no", Class: fault.Denied, Since: ago(time.Minute)}
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "status.json")
	if *update {
		if err := os.WriteFile(golden, append(data, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(data)+"\n"); diff != "" {
		t.Errorf("the document differs (- wanted):\n%s", diff)
	}
	var back Status
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	s.Since, s.ClockSkew = s.Since.UTC().Truncate(time.Second), -187250*time.Millisecond
	if diff := cmp.Diff(*s, back); diff != "" {
		t.Errorf("it does not come back (- wanted):\n%s", diff)
	}
}

// Every time in the document has whole seconds and is in UTC, also that of a field that is added, and marshalling
// changes nothing in what it was given.
func TestJSONTimes(t *testing.T) {
	odd := time.Date(2026, 11, 24, 4, 0, 0, 987654321, time.FixedZone("somewhere", 3600))
	var full Status
	fill(reflect.ValueOf(&full).Elem(), odd)
	data, err := json.Marshal(full)
	if err != nil {
		t.Fatal(err)
	}
	times := regexp.MustCompile(`\d{4}-\d\d-\d\dT[^"]*`).FindAllString(string(data), -1)
	if len(times) < 15 {
		t.Errorf("only %d times in %s", len(times), data)
	}
	for _, got := range times {
		if got != "2026-11-24T03:00:00Z" {
			t.Errorf("a time is %s in %s", got, data)
		}
	}
	var again Status
	fill(reflect.ValueOf(&again).Elem(), odd)
	if diff := cmp.Diff(again, full); diff != "" {
		t.Errorf("marshalling has changed what it was given: %s", diff)
	}
	for _, key := range regexp.MustCompile(`"[^"]+":`).FindAllString(string(data), -1) {
		if name := strings.Trim(key, `":`); name != "somewhere" && !regexp.MustCompile(`^[a-z][A-Za-z]*$`).MatchString(name) {
			t.Errorf("the key %s is not in lower camel case", key)
		}
	}
}

// fill sets every time below v, and makes what is a pointer or a list.
func fill(v reflect.Value, odd time.Time) {
	switch {
	case v.Type() == reflect.TypeFor[time.Time]():
		v.Set(reflect.ValueOf(odd))
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), odd)
	case v.Kind() == reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), odd)
	case v.Kind() == reflect.Struct:
		for _, field := range v.Fields() {
			fill(field, odd)
		}
	}
}

func TestJSONOfNothing(t *testing.T) {
	data, err := json.Marshal(Status{})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"apiVersion":"nodejoin/v1alpha1","kind":"Status","running":false,"node":"","certificates":[],"endpoints":[],"ca":{"certificates":[]},"watching":false}`
	if string(data) != want {
		t.Errorf("it is %s", data)
	}
}

func TestUnmarshal(t *testing.T) {
	for _, test := range []struct {
		name, data string
		ok         bool
	}{
		{"with a field of the future", `{"apiVersion":"nodejoin/v1alpha1","kind":"Status","node":"n","tomorrow":{}}`, true},
		{"of another version", `{"apiVersion":"nodejoin/v2","kind":"Status","node":"n"}`, false},
		{"of another kind", `{"apiVersion":"nodejoin/v1alpha1","kind":"Statute","node":"n"}`, false},
		{"of no kind", `{"node":"n"}`, false},
		{"with another type", `{"apiVersion":"nodejoin/v1alpha1","kind":"Status","node":7}`, false},
	} {
		var s Status
		if err := json.Unmarshal([]byte(test.data), &s); (err == nil) != test.ok {
			t.Errorf("%s: %v", test.name, err)
		} else if test.ok && s.Node != "n" {
			t.Errorf("%s: the node is %q", test.name, s.Node)
		}
	}
}
