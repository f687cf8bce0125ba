package status

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/nodejoin/nodejoin/agent/fault"
)

var update = flag.Bool("update", false, "write what the text is now to testdata")

var now = time.Date(2026, 11, 24, 3, 0, 0, 0, time.UTC)

func ago(d time.Duration) time.Time { return now.Add(-d) }

func in(d time.Duration) time.Time { return now.Add(d) }

const csrName = "node-csr-Kw4bW6eHA5UciT5i3_yfFDuUr6622E2vBtvCaqveLGs"

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

// fresh returns a machine that has no certificate yet.
func fresh() *Status {
	s := healthy()
	s.Since, s.ConfigLoaded, s.Credential = ago(4*time.Minute), ago(4*time.Minute), "the bootstrap token abcdef"
	s.Certificates = []Certificate{{
		Name: "kubelet-client", State: Missing, Message: "this machine has no certificate yet",
		Path: "/var/lib/kubelet/pki/kubelet-client-current.pem", Beat: ago(20 * time.Second),
	}}
	return s
}

func waitingFor(approved bool, user string, since time.Duration) *Request {
	return &Request{
		Name: csrName, SignerName: "kubernetes.io/kube-apiserver-client-kubelet", Username: user,
		Created: ago(3*time.Minute + 2*time.Second), Since: ago(since), Approved: approved,
	}
}

func serving(request *Request) Certificate {
	if request != nil {
		request.SignerName = "kubernetes.io/kubelet-serving"
	}
	return Certificate{
		Name: "kubelet-serving", State: Missing, Path: "/var/lib/kubelet/pki/kubelet-server-current.pem",
		DNSNames: []string{"node-7", "node-7.example.com"}, IPAddresses: []string{"10.0.0.7"}, Request: request, Beat: ago(20 * time.Second),
	}
}

func change(s *Status, how func(s *Status)) *Status {
	how(s)
	return s
}

// situations are what an operator may find. The text of each is in testdata.
var situations = []struct {
	name    string
	status  *Status
	exit    fault.Class
	ready   bool
	summary string
}{
	{
		"healthy", healthy(), 0, true,
		"node-7: certificate valid until 2027-06-15T08:00:00Z, rotates at 2027-04-02T03:00:00Z",
	},
	{
		"not-running", change(healthy(), func(s *Status) {
			*s = Status{
				Node: s.Node, Rotation: s.Rotation, Kubeconfig: s.Kubeconfig, ConfigFile: s.ConfigFile, Certificates: s.Certificates,
				CA: CA{Path: s.CA.Path, Certificates: s.CA.Certificates},
			}
		}), 0, true,
		"node-7: certificate valid until 2027-06-15T08:00:00Z, the agent does not run",
	},
	{
		"not-joined-not-running", &Status{Certificates: []Certificate{{Name: "kubelet-client", State: Missing, Message: "this machine has no certificate yet"}}}, 1, false,
		"kubelet-client: this machine has no certificate yet; remedy: start the agent (systemctl start nodejoin), or join by hand: nodejoin join",
	},
	{
		"under-way-not-running", &Status{Node: "node-7", Certificates: []Certificate{{
			Name: "kubelet-client", State: Missing, Request: &Request{Name: csrName, SignerName: "kubernetes.io/kube-apiserver-client-kubelet"},
		}}}, 6, false,
		"kubelet-client: its request is under way, as far as the disk tells; remedy: see what it waits for: kubectl get csr " + csrName,
	},
	{
		"starting", &Status{Running: true, PID: 812, Since: ago(300 * time.Millisecond), Version: "v0.3.0", Watching: true}, 1, false,
		"the agent is starting",
	},
	{
		"waits-for-approval", change(fresh(), func(s *Status) {
			s.Certificates[0].Request = waitingFor(false, "system:bootstrap:abcdef", 3*time.Minute)
		}), 6, false,
		"kubelet-client: nobody has approved its request since 2026-11-24T02:57:00Z (by system:bootstrap:abcdef); remedy: kubectl certificate approve " + csrName,
	},
	{
		"waits-with-anothers-credential", change(fresh(), func(s *Status) {
			s.Certificates[0].Request = waitingFor(false, "system:node:node-8", 3*time.Minute)
		}), 6, false,
		"kubelet-client: nobody has approved its request since 2026-11-24T02:57:00Z; see: nodejoin status",
	},
	{
		"approved-not-signed", change(fresh(), func(s *Status) {
			s.Certificates[0].Request = waitingFor(true, "system:bootstrap:abcdef", 20*time.Second)
		}), 6, false,
		"kubelet-client: approved at 2026-11-24T02:59:40Z, not signed; remedy: see kube-controller-manager's csrsigning controller: kubectl describe csr " + csrName,
	},
	{
		"approved-not-signed-by-another", change(healthy(), func(s *Status) {
			c := serving(waitingFor(true, "system:node:node-7", 20*time.Minute))
			c.Name, c.Request.SignerName, c.Path = "metrics", "example.com/serving", "/var/lib/metrics/pki/metrics-current.pem"
			s.Certificates = append(s.Certificates, c)
		}), 6, true,
		"metrics: approved at 2026-11-24T02:40:00Z, not signed; remedy: see the signer example.com/serving: kubectl describe csr " + csrName,
	},
	{
		"serving-waits-for-approval", change(healthy(), func(s *Status) {
			s.Certificates = append(s.Certificates, serving(waitingFor(false, "system:node:node-7", 26*time.Hour)))
		}), 6, true,
		"kubelet-serving: nobody has approved its request since 2026-11-23T01:00:00Z (by system:node:node-7); remedy: kubectl certificate approve " + csrName,
	},
	{
		"rotating", change(healthy(), func(s *Status) {
			c := &s.Certificates[0]
			c.State, c.RotateAt, c.Rotations, c.Failures = Due, ago(90*time.Second), 3, 1
			c.Request = waitingFor(false, "system:node:node-7", 88*time.Second)
		}), 0, true,
		"kubelet-client: nobody has approved its request since 2026-11-24T02:58:32Z (by system:node:node-7); remedy: kubectl certificate approve " + csrName,
	},
	{
		"expired-token-gone", change(healthy(), func(s *Status) {
			c := &s.Certificates[0]
			c.State, c.Message, c.NotAfter, c.RotateAt = Expired, "the certificate expired at 2026-11-12T03:00:00Z", ago(12*day), ago(80*day)
			c.Failures = 41
			c.Problem = &Problem{
				Text:   "api1:6443 does not know the bootstrap token abcdef: it expired, was deleted, or belongs to another cluster",
				Remedy: "make a new token on a control-plane node (kubeadm token create) and write it to /etc/nodejoin/token",
				Class:  fault.Refused, Since: ago(11 * day), Certificate: "kubelet-client",
			}
			s.Problem, s.Credential = c.Problem, "the bootstrap token abcdef"
		}), 4, false,
		"kubelet-client: api1:6443 does not know the bootstrap token abcdef: it expired, was dele…; remedy: make a new token on a control-plane node (kubeadm token create) and write it to /etc/nodejoin/token",
	},
	{
		"expired-since-the-snapshot", change(healthy(), func(s *Status) {
			s.Certificates[0].NotAfter, s.Certificates[0].RotateAt = ago(time.Second), ago(time.Hour)
		}), 1, false,
		"kubelet-client: the certificate expired at 2026-11-24T02:59:59Z",
	},
	{
		"denied", change(fresh(), func(s *Status) {
			c := &s.Certificates[0]
			c.State, c.Message = Denied, "the request was denied"
			c.Problem = &Problem{
				Text:   "the request was denied: " + csrName + ": NotInInventory: ask\nthe \x1b[31mdata centre\x1b[0m\u202e first",
				Remedy: "when the reason is gone, ask again with a new key: nodejoin join --force",
				Class:  fault.Denied, Since: ago(7 * time.Minute), Certificate: "kubelet-client",
			}
			s.Problem = c.Problem
		}), 5, false,
		"kubelet-client: the request was denied: node-csr-Kw4bW6eHA5UciT5i3_yfFDuUr6622E2vBtvCaqveLGs: NotInInventory: ask t…; remedy: when the reason is gone, ask again with a new key: nodejoin join --force",
	},
	{
		"control-plane-away", change(healthy(), func(s *Status) {
			for i := range s.Endpoints {
				e := &s.Endpoints[i]
				e.Alive, e.InUse, e.Error = false, false, "dial tcp 10.0.0.1:6443: connect: connection refused"
			}
			s.Endpoints = append(s.Endpoints, Endpoint{Address: "[2001:db8::1]:6443"})
			s.Problem = &Problem{Text: "no API server can be reached: api1:6443: connection refused", Since: ago(2 * time.Hour), Remedy: "nodejoin doctor"}
			s.CA.Problem = &Problem{Text: "no API server can be reached: api1:6443: connection refused", Since: ago(time.Hour)}
		}), 1, true,
		"no API server can be reached: api1:6443: connection refused (since 2026-11-24T01:00:00Z); remedy: nodejoin doctor",
	},
	{
		"foreign", change(healthy(), func(s *Status) {
			c := &s.Certificates[0]
			c.State, c.Subject = Foreign, "CN=system:node:node-8,O=system:nodes"
			c.Message = `the certificate on disk is of "system:node:node-8" in ["system:nodes"] instead of "system:node:node-7" in ["system:nodes"]`
		}), 8, false,
		`kubelet-client: the certificate on disk is of "system:node:node-8" in ["system:nodes"] instead of "system:node:node-7" in ["system:nodes"]`,
	},
	{
		"unreadable-not-running", &Status{Node: "node-7", Certificates: []Certificate{{
			Name: "kubelet-client", State: Unreadable, Message: "the certificate on disk cannot be used: no PEM block", Path: "/var/lib/kubelet/pki/kubelet-client-current.pem",
		}}}, 8, false,
		"kubelet-client: the certificate on disk cannot be used: no PEM block; remedy: start the agent (systemctl start nodejoin), or join by hand: nodejoin join",
	},
	{
		"clock", change(healthy(), func(s *Status) {
			s.ClockSkew = -187 * time.Second
			s.Certificates[0].State, s.Certificates[0].NotBefore = NotYetValid, in(time.Minute)
		}), 1, false,
		"kubelet-client: the certificate becomes valid at 2026-11-24T03:01:00Z; remedy: check this machine's clock: timedatectl",
	},
	{
		"ca-rotation", change(healthy(), func(s *Status) {
			s.CA.Certificates = append(s.CA.Certificates, CACertificate{Subject: "CN=kubernetes-2026", Pin: "sha256:" + strings.Repeat("ab", 32), NotAfter: ago(day)})
			s.CA.UnpinnedNote = "CN=kubernetes-2026 came with the cluster's rotation; the configured hashes do not name it"
			s.CA.Problem = &Problem{
				Text:   "the cluster offers a bundle that would cut this node off from every API server",
				Remedy: "keep the old CA in the bundle until every API server has a certificate of the new one",
				Class:  fault.Untrusted, Since: ago(40 * time.Minute),
			}
		}), 3, true,
		"CA bundle: the cluster offers a bundle that would cut this node off from every API server; remedy: keep the old CA in the bundle until every API server has a certificate of the new one",
	},
	{
		"rotation-by-kubelet", change(healthy(), func(s *Status) {
			s.Rotation, s.RotationNote, s.Watching = "kubelet", "/var/lib/kubelet/config.yaml says rotateCertificates: true", false
			s.Certificates[0].RotateAt = time.Time{}
			s.ClockSkew = 95 * time.Second
		}), 0, true,
		"this machine's clock is 95 seconds ahead of the API server's; remedy: see whether it is synchronised: timedatectl",
	},
	{
		"stuck", change(healthy(), func(s *Status) { s.Beat = ago(7 * time.Minute) }), 1, true,
		"the agent has made no progress since 2026-11-24T02:53:00Z; remedy: look at its log (journalctl -u nodejoin), then: systemctl restart nodejoin",
	},
	{
		"several-things", change(healthy(), func(s *Status) {
			s.Certificates = append(s.Certificates, serving(nil), serving(waitingFor(false, "system:node:node-7", time.Second)))
			s.Certificates[1].State, s.Certificates[2].Name = Denied, "metrics"
			s.Certificates[1].Message = "denied by admin@example.com"
			s.Problem = &Problem{Text: "the hook reload-metrics failed: exit status 1", Remedy: "systemctl status metrics", Since: ago(time.Minute), Certificate: "metrics"}
		}), 5, true,
		"kubelet-serving: denied by admin@example.com",
	},
}

func TestSituations(t *testing.T) {
	for _, test := range situations {
		t.Run(test.name, func(t *testing.T) {
			if got := test.status.Exit(now); got != test.exit {
				t.Errorf("exit status %d instead of %d", got, test.exit)
			}
			if got := test.status.Ready(now); got != test.ready {
				t.Errorf("ready: %t instead of %t", got, test.ready)
			}
			if got := test.status.Summary(now); got != test.summary {
				t.Errorf("the summary is\n%s\ninstead of\n%s", got, test.summary)
			}
			golden := filepath.Join("testdata", test.name+".txt")
			if *update {
				if err := os.WriteFile(golden, []byte(test.status.Text(now)), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), test.status.Text(now)); diff != "" {
				t.Errorf("the text differs (- wanted):\n%s", diff)
			}
			if later := test.status.Summary(now.Add(time.Second)); later != test.summary && test.name != "clock" {
				t.Errorf("the summary changes with the time alone: %s", later)
			}
		})
	}
}

func TestNoGoldenFileIsLeftOver(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) != len(situations) {
		t.Errorf("%d files for %d situations (%v)", len(files), len(situations), err)
	}
}

// The problem's class is the exit status wherever the problem is, the node's own certificate's before any other.
func TestExitOfProblems(t *testing.T) {
	problem := func(c fault.Class) *Problem { return &Problem{Text: "problem " + string(rune('a'+c)), Class: c} }
	for _, test := range []struct {
		name string
		how  func(s *Status)
		want fault.Class
	}{
		{"none", func(*Status) {}, 0},
		{"passing", func(s *Status) { s.Problem = problem(0) }, 1},
		{"of the agent", func(s *Status) { s.Problem = problem(fault.Held) }, fault.Held},
		{"of the bundle", func(s *Status) { s.CA.Problem = problem(fault.Untrusted) }, fault.Untrusted},
		{"of the second certificate", func(s *Status) { s.Certificates[1].Problem = problem(fault.Denied) }, fault.Denied},
		{"of both certificates", func(s *Status) {
			s.Certificates[0].Problem, s.Certificates[1].Problem = problem(fault.Refused), problem(fault.Denied)
		}, fault.Refused},
		{"of a certificate and another", func(s *Status) {
			s.Problem, s.Certificates[1].Problem = problem(fault.Usage), problem(fault.Denied)
		}, fault.Denied},
		{"and a request that waits", func(s *Status) {
			s.Certificates[0].State, s.Certificates[0].Request, s.Certificates[0].Problem = Missing, &Request{Approved: true}, problem(fault.Refused)
		}, fault.Refused},
		{"a replacement that waits", func(s *Status) { s.Certificates[1].State, s.Certificates[1].Request = Due, &Request{} }, 0},
		{"a first one that waits", func(s *Status) { s.Certificates[1].State, s.Certificates[1].Request = Missing, &Request{} }, 6},
		{"an unknown state", func(s *Status) { s.Certificates[1].State = "of a newer agent" }, 1},
		{"no certificates", func(s *Status) { s.Certificates = nil }, 1},
		{"not running", func(s *Status) { s.Running, s.Beat = false, time.Time{} }, 0},
	} {
		s := healthy()
		s.Certificates = append(s.Certificates, s.Certificates[0])
		s.Certificates[1].Name = "kubelet-serving"
		test.how(s)
		if got := s.Exit(now); got != test.want {
			t.Errorf("%s: exit status %d instead of %d", test.name, got, test.want)
		}
	}
}

func TestAlive(t *testing.T) {
	for _, test := range []struct {
		name        string
		beat, since time.Time
		want        bool
	}{
		{"a beat just now", now, ago(day), true},
		{"just within", ago(StaleAfter - 1), ago(day), true},
		{"too old", ago(StaleAfter), ago(day), false},
		{"of the future", in(time.Hour), ago(day), true},
		{"just started", time.Time{}, ago(time.Minute), true},
		{"started and never beat", time.Time{}, ago(time.Hour), false},
		{"nothing known", time.Time{}, time.Time{}, false},
		{"just loaded a configuration", time.Time{}, ago(day), true},
		{"just loaded a configuration, after a beat", ago(StaleAfter), ago(day), false},
	} {
		s := Status{Beat: test.beat, Since: test.since}
		if strings.HasPrefix(test.name, "just loaded") {
			s.ConfigLoaded = ago(time.Second)
		}
		if got := s.Alive(now); got != test.want {
			t.Errorf("%s: %t", test.name, got)
		}
	}
}

func TestReadyGoesByTheDatesToo(t *testing.T) {
	for _, test := range []struct {
		name string
		now  time.Time
		want bool
	}{
		{"before", ago(163 * day), false},
		{"from the first moment", ago(162 * day), true},
		{"now", now, true},
		{"to the last moment", in(203*day + 5*time.Hour - 1), true},
		{"no longer", in(203*day + 5*time.Hour), false},
	} {
		if got := healthy().Ready(test.now); got != test.want {
			t.Errorf("%s: %t", test.name, got)
		}
	}
	if (&Status{}).Ready(now) {
		t.Error("ready without a certificate")
	}
}

func TestWords(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Hour: "a moment", 0: "a moment", 999 * time.Millisecond: "a moment", time.Second: "a second", 2 * time.Second: "2 seconds",
		119 * time.Second: "119 seconds", 2 * time.Minute: "2 minutes", 119 * time.Minute: "119 minutes", 2 * time.Hour: "2 hours",
		47 * time.Hour: "47 hours", 48 * time.Hour: "2 days", 13*day - 1: "12 days", 729 * day: "729 days", 730 * day: "2 years",
	} {
		if got := words(d); got != want {
			t.Errorf("%s is %q instead of %q", d, got, want)
		}
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

// Whatever a server, a certificate or a file has to say, it stays on its line, and the summary stays short.
func FuzzText(f *testing.F) {
	f.Add("plain", "kubectl certificate approve x")
	f.Add("two\nlines\r\tand\x1b[31m more\u2028\u202e", "cmd\x00\x7f")
	f.Add(strings.Repeat("é", 3000), strings.Repeat("long ", 100))
	f.Add("\xff\xfe", strings.Repeat("x", 120))
	f.Fuzz(func(t *testing.T, text, remedy string) {
		plain, wild := everywhere("x", "y"), everywhere(text, remedy)
		if summary := wild.Summary(now); len(summary) > summaryLimit || !clean(summary) {
			t.Errorf("the summary has %d bytes: %q", len(summary), summary)
		}
		wild.Problem, wild.Certificates[0].Problem = nil, nil
		if summary := wild.Summary(now); len(summary) > summaryLimit || !clean(summary) {
			t.Errorf("the summary has %d bytes: %q", len(summary), summary)
		}
		got := everywhere(text, remedy)
		for line := range strings.SplitSeq(got.Text(now), "\n") {
			if !clean(line) {
				t.Errorf("a line is %q", line)
			}
		}
		// An empty value leaves its row out.
		if lines, most := strings.Count(got.Text(now), "\n"), strings.Count(plain.Text(now), "\n"); lines > most || oneLine(text) != "" && oneLine(remedy) != "" && strings.TrimSpace(text) != "" && lines != most {
			t.Errorf("%d lines instead of %d:\n%s", lines, most, got.Text(now))
		}
	})
}

func clean(line string) bool {
	return utf8.ValidString(line) && !strings.ContainsFunc(line, func(r rune) bool {
		return unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp)
	})
}

// everywhere returns a status with a text wherever it could come from outside.
func everywhere(text, remedy string) *Status {
	s := healthy()
	s.Problem = &Problem{Text: text, Remedy: remedy, Class: fault.Denied, Since: ago(time.Hour)}
	s.Node, s.RotationNote, s.Credential, s.Kubeconfig = text, text, text, text
	s.Endpoints[0].Address, s.Endpoints[0].Error = text, text
	s.CA.Source, s.CA.UnpinnedNote = text, text
	s.CA.Certificates[0].Subject, s.CA.Certificates[0].Pin = text, text
	c := &s.Certificates[0]
	c.Name, c.Message, c.Path, c.Subject, c.Issuer, c.Serial, c.DNSNames = text, text, text, text, text, text, []string{text, text}
	c.Request = &Request{Name: text, Username: text, SignerName: text, Created: ago(time.Minute), Since: ago(time.Minute)}
	return s
}

// No list is endless in the text.
func TestLongLists(t *testing.T) {
	s := healthy()
	for range 1000 {
		s.Certificates[0].DNSNames = append(s.Certificates[0].DNSNames, "x.example.com")
		s.Endpoints = append(s.Endpoints, Endpoint{Address: "x:1"})
		s.CA.Certificates = append(s.CA.Certificates, CACertificate{Subject: "CN=x", Pin: "sha256:00"})
	}
	text := s.Text(now)
	if lines := strings.Count(text, "\n"); lines > 100 {
		t.Errorf("%d lines", lines)
	}
	for _, want := range []string{"and 984 more", "and 986 more", "and 985 more"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
}

// What concerns one certificate: what is wrong with the others is left out, but for the node's as long as nothing can be
// requested with it.
func TestAbout(t *testing.T) {
	both := func(how func(s *Status)) *Status {
		s := healthy()
		s.Certificates = append(s.Certificates, serving(nil))
		return change(s, how)
	}
	failing := &Problem{Text: "the disk is full", Remedy: "make room", Class: fault.Files, Certificate: "kubelet-client"}
	for _, test := range []struct {
		name, about string
		s           *Status
		class       fault.Class
		want        string
	}{
		{"all is well", "kubelet-client", both(func(*Status) {}), 0, ""},
		{"the other waits", "kubelet-client", both(func(s *Status) { s.Certificates[1] = serving(waitingFor(false, "system:node:node-7", time.Hour)) }), 0, ""},
		{"it waits", "kubelet-serving", both(func(s *Status) { s.Certificates[1] = serving(waitingFor(false, "system:node:node-7", time.Hour)) }), fault.Unapproved, "nobody has approved"},
		{"the node's fails, and works", "kubelet-serving", both(func(s *Status) { s.Certificates[0].Problem, s.Problem = failing, failing }), fault.Unexpected, "kubelet-serving: there is no certificate"},
		{"the node's fails", "kubelet-client", both(func(s *Status) { s.Certificates[0].Problem, s.Problem = failing, failing }), fault.Files, "the disk is full"},
		{"the node's does not work", "kubelet-serving", both(func(s *Status) { s.Certificates[0].State = Refused }), fault.Refused, "kubelet-client: "},
		{"the bundle is not followed", "kubelet-client", both(func(s *Status) { s.CA.Problem = failing }), 0, ""},
		{"the loop is stuck", "kubelet-client", both(func(s *Status) { s.Beat = ago(time.Hour) }), fault.Unexpected, "no progress"},
		{"the clock is off", "kubelet-client", both(func(s *Status) { s.ClockSkew = time.Hour }), fault.Unexpected, "clock"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := test.s.About(test.about, now).Fault(now)
			if fault.ClassOf(err) != test.class || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, of class %d", err, fault.ClassOf(err))
			}
		})
	}
	if c := healthy().Certificate("kubelet-serving"); c != nil {
		t.Errorf("there is %+v", c)
	}
}
