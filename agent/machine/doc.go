// Package machine finds out facts about the machine that this program runs on: its names and addresses, its kubelet, its
// disks, its clock and its users. It changes nothing and asks nobody else, no name server either.
//
// # How it fails
//
// With the cause, unclassified, where it may pass; with the class [fault.Usage] where the operator named something that
// this machine does not have. What cannot be known on an operating system (anything but Linux, mostly) is
// [errors.ErrUnsupported], or "not known".
package machine
