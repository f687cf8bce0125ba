// Package packaging holds what the packages are made of: the recipe for nfpm, the maintainer scripts, the configuration as it is
// installed, and the tests of all that. There is no code in it that a program could use.
//
// README.md tells maintainers how a release is made. Command packages (cmd/packages) makes the packages, repository a signed
// repository of them, and check installs, upgrades and removes them as users do.
package packaging
