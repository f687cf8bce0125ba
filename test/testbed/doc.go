// Package testbed runs a real Kubernetes control plane for tests: etcd, kube-apiserver and kube-controller-manager,
// each a process of its own, and beside them the real kubelet, kubectl and kubeadm.
//
// # What it is for
//
// A joining agent is judged by what the API server, the approver, the signer and the bootstrap signer do with its
// requests. None of that is worth imitating, so the tests of this repository run against the real programs, which
// can be stopped, killed, paused and restarted one by one. A control plane with the zero [Options] is what kubeadm
// leaves behind: one CA, cluster-info published and signed, bootstrap tokens accepted, node certificates approved.
//
//	cp := testbed.New(t, testbed.Options{})
//	token, err := cp.CreateToken(ctx, testbed.TokenOptions{})
//	...
//	err = cp.WaitSigned(ctx, token)
//
// # What it promises
//
// Nothing is left running. Whatever ends the test process (its end, a panic, os.Exit, SIGINT, SIGKILL), the kernel
// kills every component with it; see [Process]. Several control planes can run side by side: their ports are held
// for as long as the test process lives, over every restart of a component.
//
// # How it fails
//
// Start returns an error that holds the end of the log of the component that did not come up; New fails the test
// with it, and logs the end of every component's log when the test fails later. The programs come from
// [Binaries], which builds them once (about ten minutes) and keeps them in the user's cache directory.
//
// Only tests import this package. It links the full Kubernetes clientset, which the product does not.
package testbed
