// Package doctor makes every check that a person would make on a machine that does not join, or that will not be able to
// have its certificate rotated: [Run] turns what is known of the machine, an [Input], into a [Report] of findings, each
// with what to do about it.
//
// # What it promises
//
// Nothing is changed: no file, no object of the cluster, no lock is taken, not for an instant. A credential is shown to
// no API server that the cluster's CA does not vouch for, and no secret stands in a finding. Checks that do not depend on
// each other run at the same time, each within a limit, so that the whole takes no longer than Limit where nothing
// answers. The order of the findings does not depend on any of that.
//
// # How it fails
//
// Not at all: what goes wrong is a finding. A check that could not be made because another one failed is skipped, and says
// so.
package doctor
