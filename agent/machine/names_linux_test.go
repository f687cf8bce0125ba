package machine

import (
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/nodejoin/nodejoin/test/expect"
)

func TestPassingAddresses(t *testing.T) {
	// As a kernel writes it: permanent, temporary, deprecated, tentative, found to be another's, optimistic, and lines that
	// are none.
	table := `fd000000000000000000000000000002 04 40 00 80     eth0
20010db8000000000000000000000001 02 40 00 01     eth0
20010db8000000000000000000000002 02 40 00 20     eth0
20010db8000000000000000000000003 02 40 00 40     eth0
20010db8000000000000000000000004 02 40 00 88     eth0
20010db8000000000000000000000005 02 40 00 04     eth0

nonsense
20010db800000000000000000000000g 02 40 00 01     eth0
20010db8000000000000000000000006 02 40 00
`
	want := map[netip.Addr]bool{}
	for text, passing := range map[string]bool{"fd00::2": false, "2001:db8::1": true, "2001:db8::2": true, "2001:db8::3": true, "2001:db8::4": true, "2001:db8::5": false} {
		want[netip.MustParseAddr(text)] = passing
	}
	if diff := cmp.Diff(want, passingAddresses([]byte(table)), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

// insideNamespace tells this program, started again, what it is for.
const insideNamespace = "NODEJOIN_TEST_NAMESPACE"

// The kernel is asked in a network namespace that has one of everything.
func TestNamesOfThisMachine(t *testing.T) {
	if os.Getenv(insideNamespace) != "" {
		namesInNamespace(t)
		return
	}
	expect.Root(t)
	_, err := exec.LookPath("ip")
	expect.Able(t, "ip(8)", err)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run", "^TestNamesOfThisMachine$", "-test.v")
	cmd.Env = append(os.Environ(), insideNamespace+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWUTS}
	output, err := cmd.CombinedOutput()
	t.Logf("%s", output)
	if err != nil {
		t.Fatal(err)
	}
}

func namesInNamespace(t *testing.T) {
	// /sys shows the namespace that it was mounted in.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		expect.Able(t, "a /sys of its own", err)
	}
	if err := unix.Sethostname([]byte("machine.example.com")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Names("node-1"); err == nil {
		t.Error("a machine without a network has names")
	}
	for line := range strings.Lines(`link set lo up
		link add eth0 type veth peer name peer0
		link add eth1 type veth peer name peer1
		link add eth2 type veth peer name peer2
		link add eth3 type veth peer name peer3
		link add br0 type bridge
		link set eth1 master br0
		link add veth0 type veth peer name peer4
		addr add 10.0.0.5/24 dev eth0
		addr add 10.0.0.6/24 dev eth0
		addr add 10.0.0.100/32 dev eth0
		addr add fd00::5/64 dev eth0 nodad
		addr add fd00::6/64 dev eth0 nodad preferred_lft 0
		addr add 10.1.0.5/24 dev eth1
		addr add 10.2.0.5/24 dev eth2
		addr add 10.4.0.5/24 dev br0
		addr add 10.5.0.5/24 dev veth0
		link set eth0 up
		link set eth1 up
		link set eth3 up
		link set br0 up
		link set veth0 up
		addr add fd01::5/64 dev eth3`) { // no carrier, and its address was not confirmed to be unique: nobody can answer
		if out, err := exec.CommandContext(t.Context(), "ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", line, err, out)
		}
	}
	dns, ips, err := Names("node-1")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"machine.example.com", "node-1"}, dns); diff != "" {
		t.Error(diff)
	}
	if want := "10.0.0.5 10.4.0.5 fd00::5"; join(ips) != want {
		t.Errorf("%s instead of %s", join(ips), want)
	}
}
