package main

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// A version as git describe gives it for a tag (Semantic Versioning with a v), with the commits since then; and one
// without any tag.
var (
	taggedVersion   = regexp.MustCompile(`^v?(\d+\.\d+\.\d+)(?:-([0-9A-Za-z.-]+?))??(?:\+([0-9A-Za-z.-]+))?(?:-(\d+)-g([0-9a-f]{4,40}))?(-dirty)?$`)
	untaggedVersion = regexp.MustCompile(`^([0-9a-f]{4,40})(-dirty)?$`)
)

// packageVersion turns a version into one that dpkg and rpm take and sort alike: a prerelease is before its release (~), what was
// committed after a tag is behind it (+), and what no tag is reached from is before everything, by the time of its commit.
func packageVersion(version string, committed time.Time) (string, error) {
	if m := untaggedVersion.FindStringSubmatch(version); m != nil {
		return "0.0.0~git" + committed.UTC().Format("20060102150405") + "." + m[1] + strings.ReplaceAll(m[2], "-", "."), nil
	}
	m := taggedVersion.FindStringSubmatch(version)
	if m == nil {
		return "", fmt.Errorf("the version %q is neither like v1.2.3, v1.2.3-rc.1 or v1.2.3-4-gabcdef0 nor a commit's hash", version)
	}
	result := m[1]
	if m[2] != "" {
		result += "~" + strings.ReplaceAll(m[2], "-", ".") // a hyphen begins Debian's revision, and is refused by rpm
	}
	var behind []string
	if m[3] != "" {
		behind = append(behind, strings.ReplaceAll(m[3], "-", "."))
	}
	if m[4] != "" {
		behind = append(behind, m[4], "g"+m[5])
	}
	if m[6] != "" {
		behind = append(behind, "dirty")
	}
	if len(behind) != 0 {
		result += "+" + strings.Join(behind, ".")
	}
	return result, nil
}
