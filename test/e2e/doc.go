// Package e2e shows with the program itself, a real control plane and a real kubelet what a user is promised. Each
// script of testdata is a story that can be read without knowing the code: commands as they are typed, and what they
// print. The tables of bad input beside them run the same command line in this process.
//
// The scripts of testdata run at the same time against one control plane; those of testdata/alone count requests,
// change the cluster or halt it, so each has it for itself; those of testdata/two-cas run against a control plane whose
// clients have a CA of their own.
//
// TestStrategies joins by every way in of package strategy and keeps the table in README.md true; what a person reads
// when such a credential is refused is in testdata/refusals.golden.
//
//	go test ./test/e2e -run Script/approval -v
//	go test ./test/e2e -run 'Strategies|Refusals' -update
package e2e
