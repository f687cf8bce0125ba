package cloudinit

import (
	"bytes"
	"encoding/hex"
	"net/url"
	"path"
	"regexp"
	"strings"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// Install is how nodejoin comes to a machine. The zero value is an image that has it; others are made by [ParseInstall].
type Install struct {
	way    way
	place  string // path, or URL
	sum    string // SHA-256 of a package that is downloaded, in hexadecimal digits
	suites string // of an apt repository: suite and components
	key    []byte // public, of a repository
}

type way int

const (
	inImage  way = iota
	packaged     // a package file that the machine has
	download     // a package file that it gets
	aptRepository
	dnfRepository
)

// Where the key of a repository is on the machine, and a package that is downloaded, but for its ending.
const (
	aptKey     = "/etc/apt/keyrings/nodejoin.asc"
	dnfKey     = "/etc/pki/rpm-gpg/RPM-GPG-KEY-nodejoin"
	downloaded = "/run/nodejoin"
)

const keyHead = "-----BEGIN PGP PUBLIC KEY BLOCK-----"

// plain is what can stand in a list of apt's sources, and in a command, without meaning anything else there.
var plain = regexp.MustCompile(`^[A-Za-z0-9._~:/?&=%@+,-]+$`)

// suites is a suite and its components, as in a list of apt's sources.
var suites = regexp.MustCompile(`^[A-Za-z0-9._/-]+( [A-Za-z0-9._/-]+)*$`)

// ParseInstall reads how nodejoin is installed:
//
//	/PATH.deb, /PATH.rpm             a package that the machine has
//	URL.deb#sha256=HEX, URL.rpm#...  a package that it gets, http or https
//	apt=URL, apt=URL SUITE COMPONENT a repository for apt; "stable main" where it is not said
//	dnf=URL                          a repository for dnf
//
// key is the public key that a repository is signed with, in ASCII armour; it is for nothing else.
func ParseInstall(text string, key []byte) (Install, error) {
	i, err := parsePlace(text)
	if err != nil {
		return Install{}, err
	}
	isRepository := i.way == aptRepository || i.way == dnfRepository
	switch {
	case isRepository && key == nil:
		return Install{}, fault.New(fault.Usage, "give the public key that it is signed with: --install-key nodejoin.asc", "the repository %s is not trusted without a key", i.place)
	case !isRepository && key != nil:
		return Install{}, fault.New(fault.Usage, "leave out --install-key", "a key is for a repository, and %q is none", text)
	case bytes.Contains(key, []byte("PRIVATE KEY")):
		return Install{}, fault.New(fault.Usage, "give the public one: gpg --armor --export ID", "the key of the repository is a private one")
	case isRepository && !strings.HasPrefix(string(bytes.TrimSpace(key)), keyHead):
		return Install{}, fault.New(fault.Usage, "make one: gpg --armor --export ID", "the key of the repository does not begin with %q", keyHead)
	}
	i.key = key
	return i, nil
}

func parsePlace(text string) (i Install, err error) {
	const remedy = "give the path of a .deb or .rpm, the URL of one with #sha256=HEX, apt=URL or dnf=URL with --install"
	kind, place, isRepository := strings.Cut(text, "=")
	switch {
	case isRepository && kind == "apt":
		i.place, i.suites, _ = strings.Cut(place, " ")
		if i.suites == "" {
			i.suites = "stable main"
		}
		i.way = aptRepository
		if !suites.MatchString(i.suites) {
			return i, fault.New(fault.Usage, "give them as in --install 'apt=URL stable main'", "%q are not a suite and its components", i.suites)
		}
	case isRepository && kind == "dnf":
		i.way, i.place = dnfRepository, place
	case strings.HasPrefix(text, "/"):
		i.way, i.place = packaged, text
		if path.Clean(text) != text {
			return i, fault.New(fault.Usage, "give the path as it is on the machine", "%q is not a clean path", text)
		}
	default:
		i.way = download
		i.place, i.sum, _ = strings.Cut(text, "#sha256=")
		if sum, err := hex.DecodeString(i.sum); err != nil || len(sum) != 32 {
			return i, fault.New(fault.Usage, remedy+"; its release has the sum in SHA256SUMS", "%q does not say how to install nodejoin", text)
		}
	}
	if i.way != packaged {
		if u, err := url.Parse(i.place); err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil {
			return i, fault.New(fault.Usage, remedy, "%q has no http or https URL without a password", text)
		}
	}
	if ending := path.Ext(i.place); (i.way == packaged || i.way == download) && ending != ".deb" && ending != ".rpm" {
		return i, fault.New(fault.Usage, remedy, "%q is no package: it ends neither in .deb nor in .rpm", i.place)
	}
	if !plain.MatchString(i.place) {
		return i, fault.New(fault.Usage, "give it with letters, digits and ._~:/?&=%@+,- only", "%q has characters that mean something elsewhere", i.place)
	}
	return i, nil
}

// apt is cloud-init's module for apt. It can take the key, too, and would need gpg for that, which a small image has not.
type apt struct {
	Sources map[string]aptSource `yaml:"sources"`
}

type aptSource struct {
	Source string `yaml:"source"`
}

// yumRepos is an entry of cloud-init's module for yum and dnf.
type yumRepos struct {
	Name     string `yaml:"name"`
	BaseURL  string `yaml:"baseurl"`
	Enabled  bool   `yaml:"enabled"`
	GPGCheck bool   `yaml:"gpgcheck"`
	RepoGPG  bool   `yaml:"repo_gpgcheck"`
	GPGKey   string `yaml:"gpgkey"`
}

// addTo has nodejoin installed.
func (i *Install) addTo(d *document) {
	switch i.way {
	case inImage:
	case packaged:
		d.RunCommand = append(d.RunCommand, installFile(i.place))
	case download:
		d.RunCommand = append(d.RunCommand, i.download()...)
	case aptRepository:
		d.WriteFiles = append(d.WriteFiles, newFile(aptKey, public, i.key))
		d.Apt = &apt{map[string]aptSource{"nodejoin": {"deb [signed-by=" + aptKey + "] " + i.place + " " + i.suites}}}
		d.Packages = []string{"nodejoin"}
	case dnfRepository:
		d.WriteFiles = append(d.WriteFiles, newFile(dnfKey, public, i.key))
		d.YumRepos = map[string]yumRepos{"nodejoin": {"nodejoin", i.place, true, true, true, "file://" + dnfKey}}
		d.Packages = []string{"nodejoin"}
	}
}

// installFile returns the command that installs a package. What it needs is in it: no repository is asked. dpkg shall not
// ask whose configuration to take, for nobody would answer.
func installFile(file string) command {
	if path.Ext(file) == ".deb" {
		return command{"dpkg", "--force-confold", "--install", file}
	}
	return command{"rpm", "--upgrade", "--replacepkgs", file}
}

// download returns the commands that get a package and install it if it is the right one.
func (i *Install) download() []command {
	file := downloaded + path.Ext(i.place)
	if path.Ext(i.place) == ".deb" { // apt has a program that leaves no file if the sum is wrong
		return []command{{"/usr/lib/apt/apt-helper", "download-file", i.place, file, "SHA256:" + i.sum}, installFile(file)}
	}
	const script = `curl --fail --silent --show-error --location --output "$2" "$1" && echo "$3  $2" | sha256sum --check && rpm --upgrade --replacepkgs "$2"`
	return []command{{"sh", "-c", script, "sh", i.place, file, i.sum}}
}
