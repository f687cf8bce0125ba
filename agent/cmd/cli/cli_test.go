package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodejoin/nodejoin/agent"
	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/systemd"
)

func TestOneLine(t *testing.T) {
	for text, want := range map[string]string{
		"":                          "",
		"as it is":                  "as it is",
		"two\nlines\r\n\tand a tab": "two lines and a tab",
		"\x1b[31mred\x00\x7f":       "[31mred",
		"Bögen bleiben":             "Bögen bleiben",
	} {
		if got := oneLine(text); got != want {
			t.Errorf("%q becomes %q instead of %q", text, got, want)
		}
	}
}

func TestPrintError(t *testing.T) {
	for _, test := range []struct {
		err            error
		severity, want string
	}{
		{errors.New("broken"), "", "nodejoin: broken\n"},
		{fault.New(fault.Denied, "ask\nagain", "denied:\nno"), "", "nodejoin: denied: no\n  remedy: ask again\n"},
		{fault.New(fault.Denied, "ask again", "denied"), systemd.PriorityError, "<3>nodejoin: denied\n<3>  remedy: ask again\n"},
	} {
		var out bytes.Buffer
		(&program{stderr: &out, severity: test.severity}).printError(test.err)
		if out.String() != test.want {
			t.Errorf("%q instead of %q", out.String(), test.want)
		}
	}
}

func TestExitStatus(t *testing.T) {
	for _, test := range []struct {
		args []string
		want int
		out  string // standard output begins with it
	}{
		{nil, 0, "nodejoin turns a machine"},
		{[]string{"--help"}, 0, "nodejoin turns a machine"},
		{[]string{"join", "--help"}, 0, "join obtains a kubelet client certificate"},
		{[]string{"version"}, 0, "nodejoin v0.0.0-dev (unknown, go1."},
		{[]string{"version", "-o", "json"}, 0, "{\n  \"version\": \"v0.0.0-dev\""},
		{[]string{"version", "-o", "yaml"}, 0, "commit: unknown\n"},
		{[]string{"version", "extra"}, 2, ""},
		{[]string{"nothing"}, 2, ""},
		{[]string{"completion", "bash"}, 0, "# bash completion V2 for nodejoin"},
		{[]string{"completion", "zsh"}, 0, "#compdef nodejoin"},
		{[]string{"completion", "fish"}, 0, "# fish completion for nodejoin"},
		{[]string{"completion", "powershell"}, 0, "# powershell completion for nodejoin"},
		{[]string{"completion", "tcsh"}, 2, ""},
		{[]string{"completion"}, 2, ""},
		{[]string{"join", "--nothing"}, 2, ""},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			if got := Main(test.args, strings.NewReader(""), &stdout, &stderr); got != test.want {
				t.Errorf("exit status %d instead of %d", got, test.want)
			}
			if !strings.HasPrefix(stdout.String(), test.out) || test.out == "" && stdout.Len() != 0 {
				t.Errorf("standard output is %q", stdout.String())
			}
			if (stderr.Len() != 0) != (test.want != 0) {
				t.Errorf("standard error is %q", stderr.String())
			}
		})
	}
}

// The help is what a person sees first at three in the morning.
func TestHelpTellsTheExitStatus(t *testing.T) {
	var stdout bytes.Buffer
	Main([]string{"join", "--help"}, strings.NewReader(""), &stdout, &stdout)
	for _, want := range []string{
		"\n  0  done\n", "\n  4  the credential was refused\n", "\n  8  ", "--discovery-token-ca-cert-hash", "--token-file",
		"nodejoin join 10.0.0.1:6443 --token",
	} {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("the help of join lacks %q", want)
		}
	}
}

func TestFailureAsAnObject(t *testing.T) {
	var out, text bytes.Buffer
	(&program{stdout: &out, stderr: &text, output: "json"}).printError(fault.New(fault.Denied, "ask again", "denied"))
	if want := "nodejoin: denied\n  remedy: ask again\n"; text.String() != want {
		t.Errorf("%q instead of %q", text.String(), want)
	}
	var failure struct {
		Error, Remedy string
		ExitCode      int
	}
	if err := json.Unmarshal(out.Bytes(), &failure); err != nil {
		t.Fatal(err)
	}
	if failure.Error != "denied" || failure.Remedy != "ask again" || failure.ExitCode != 5 {
		t.Errorf("%+v", failure)
	}
}

func TestInWords(t *testing.T) {
	for d, want := range map[time.Duration]string{
		365*24*time.Hour - time.Minute:        "364 days",
		48 * time.Hour:                        "2 days",
		48*time.Hour - time.Second:            "47 hours",
		2 * time.Hour:                         "2 hours",
		90*time.Minute + 400*time.Microsecond: "1h30m0s",
		-time.Minute:                          "-1m0s",
	} {
		if got := inWords(d); got != want {
			t.Errorf("%s is told as %q instead of %q", d, got, want)
		}
	}
}

func TestProgress(t *testing.T) {
	waiting := agent.Notice{Text: "the request\nwaits", Remedy: "approve it", Waiting: true}
	const said = "nodejoin: the request waits\n  remedy: approve it\n"
	for _, test := range []struct {
		name string
		tell func(p *progress)
		want string
	}{
		{"nothing", func(*progress) { time.Sleep(time.Hour) }, ""},
		{"news at once", func(p *progress) { p.tell(agent.Notice{Text: "verified"}) }, "nodejoin: verified\n"},
		{"news once", func(p *progress) {
			p.tell(agent.Notice{Text: "verified"})
			p.tell(agent.Notice{Text: "verified"})
			time.Sleep(time.Hour)
		}, "nodejoin: verified\n"},
		{"a short wait not at all", func(p *progress) {
			p.tell(waiting)
			time.Sleep(saidAfter - time.Millisecond)
			p.tell(agent.Notice{Text: "done"})
			time.Sleep(time.Hour)
		}, "nodejoin: done\n"},
		{"a wait after a moment", func(p *progress) {
			p.tell(waiting)
			time.Sleep(saidAfter + lookEvery)
		}, said},
		{"a wait again and again", func(p *progress) {
			p.tell(waiting)
			time.Sleep(saidAfter + 2*stillEvery + lookEvery)
		}, said + "nodejoin: still waiting after 6s: the request waits\nnodejoin: still waiting after 11s: the request waits\n"},
		{"told again it is no other wait", func(p *progress) {
			for range 10 {
				p.tell(waiting)
				time.Sleep(saidAfter / 2)
			}
		}, said},
		{"another wait begins anew", func(p *progress) {
			p.tell(waiting)
			time.Sleep(saidAfter + lookEvery)
			p.tell(agent.Notice{Text: "the signer", Waiting: true})
			time.Sleep(saidAfter - lookEvery)
		}, said},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer
				p := newProgress(&out)
				test.tell(p)
				p.stop()
				if out.String() != test.want {
					t.Errorf("%q instead of %q", out.String(), test.want)
				}
			})
		})
	}
}

// Every command of an administrator says where his kubeconfig is looked for, all of the places.
func TestHelpOfKubeconfig(t *testing.T) {
	found := 0
	var look func(cmd *cobra.Command)
	look = func(cmd *cobra.Command) {
		for _, inner := range cmd.Commands() {
			look(inner)
		}
		flag := cmd.Flags().Lookup("kubeconfig")
		if flag == nil || flag.DefValue != "" { // else it is one to write
			return
		}
		found++
		for _, place := range []string{"KUBECONFIG", "~/.kube/config", "/etc/kubernetes/admin.conf"} {
			if !strings.Contains(flag.Usage, place) {
				t.Errorf("%s: --kubeconfig says %q, and nothing of %s", cmd.CommandPath(), flag.Usage, place)
			}
		}
	}
	look(Command())
	if found < 5 {
		t.Errorf("only %d commands have --kubeconfig", found)
	}
}
