package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

var committed = time.Date(2026, 11, 28, 7, 8, 9, 0, time.FixedZone("", 2*60*60))

func TestPackageVersion(t *testing.T) {
	for version, want := range map[string]string{
		"v1.2.3":                          "1.2.3",
		"1.2.3":                           "1.2.3",
		"v1.2.3-rc.1":                     "1.2.3~rc.1",
		"v1.2.3-alpha-2":                  "1.2.3~alpha.2",
		"v1.2.3-5-gabc1234":               "1.2.3+5.gabc1234",
		"v1.2.3-rc.1-5-gabc1234":          "1.2.3~rc.1+5.gabc1234",
		"v1.2.3-dirty":                    "1.2.3+dirty",
		"v1.2.3-5-gabc1234-dirty":         "1.2.3+5.gabc1234.dirty",
		"v1.2.3-rc.1-dirty":               "1.2.3~rc.1+dirty",
		"v1.2.3+build.7":                  "1.2.3+build.7",
		"v0.0.0-dev":                      "0.0.0~dev",
		"0fa01b1":                         "0.0.0~git20261128050809.0fa01b1",
		"0fa01b1-dirty":                   "0.0.0~git20261128050809.0fa01b1.dirty",
		"v1.2":                            "",
		"":                                "",
		"latest":                          "",
		"v1.2.3 ":                         "",
		"v1.2.3;rm":                       "",
		"v1.2.3~rc1":                      "",
		"release/v1.2.3":                  "",
		"v1.2.3-":                         "",
		"v1.2.3+build.7-5-gabc1234-dirty": "1.2.3+build.7.5.gabc1234.dirty",
	} {
		got, err := packageVersion(version, committed)
		if got != want || (err != nil) != (want == "") {
			t.Errorf("%q: %q instead of %q, %v", version, got, want, err)
		}
	}
}

// ascending are versions in the order in which they are made.
var ascending = []string{
	"0fa01b1", "v0.1.0-rc.1", "v0.1.0-rc.1-3-gabc1234", "v0.1.0-rc.2", "v0.1.0-rc.10", "v0.1.0", "v0.1.0-1-gffffff0", "v0.1.0-2-g0000000",
	"v0.1.0-10-g0000000", "v0.1.1-alpha", "v0.1.1-beta", "v0.1.1", "v0.2.0-rc.1", "v0.2.0", "v0.10.0", "v1.0.0",
}

func TestPackageVersionsSort(t *testing.T) {
	versions := make([]string, len(ascending))
	for i, version := range ascending {
		var err error
		if versions[i], err = packageVersion(version, committed); err != nil {
			t.Fatal(err)
		}
	}
	later, err := packageVersion("0000000", committed.Add(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	for i, version := range versions[1:] {
		sorted(t, versions[i], version)
	}
	sorted(t, versions[0], later)
}

// sorted asks dpkg and rpm.
func sorted(t *testing.T, older, newer string) {
	t.Helper()
	if tool(t, "dpkg") {
		if err := exec.CommandContext(t.Context(), "dpkg", "--compare-versions", older, "lt", newer).Run(); err != nil {
			t.Errorf("dpkg: %s is not before %s: %v", older, newer, err)
		}
	}
	if tool(t, "rpm") {
		out, err := exec.CommandContext(t.Context(), "rpm", "--eval", "%{lua: print(rpm.vercmp('"+older+"', '"+newer+"'))}").Output()
		if err != nil || strings.TrimSpace(string(out)) != "-1" {
			t.Errorf("rpm: %s is not before %s: %s, %v", older, newer, out, err)
		}
	}
}

// tool says whether a program is there to be asked. Where all tests have to run, it must be.
func tool(t *testing.T, name string) bool {
	t.Helper()
	_, err := exec.LookPath(name)
	if err != nil && os.Getenv("NODEJOIN_TEST_ALL") == "1" {
		t.Error(err)
	}
	return err == nil
}
