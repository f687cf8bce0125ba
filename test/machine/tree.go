package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const (
	// first is what debootstrap installs, which does not resolve everything that apt does: a dependency on a virtual package,
	// such as python3-cryptography's, stays unmet.
	first = "systemd,systemd-sysv,dbus,iproute2,ca-certificates"
	// then is what apt installs. procps is what a person finds on a real machine.
	// cloud-init makes host keys with openssh-client.
	then = "cloud-init openssh-client containerd runc iptables procps"
)

// recipe makes a machine's tree in $1. No service is started while packages are configured: policy-rc.d says so
// (https://people.debian.org/~hmh/invokerc.d-policyrc.d-specification.txt).
const recipe = `set -eu
tree=$1
debootstrap --variant=minbase --include="$FIRST" "$SUITE" "$tree" ${DEBIAN_MIRROR:-}
printf '#!/bin/sh\nexit 101\n' >"$tree/usr/sbin/policy-rc.d"
chmod 755 "$tree/usr/sbin/policy-rc.d"
cp -L /etc/resolv.conf "$tree/etc/resolv.conf"
export DEBIAN_FRONTEND=noninteractive
chroot "$tree" apt-get install -q -y --no-install-recommends $THEN
chroot "$tree" apt-get clean
# There is one source of user data, and a locale, so that cloud-init does not install the package locales for it.
echo 'LANG=C.UTF-8' >"$tree/etc/default/locale"
echo 'datasource_list: [NoCloud, None]' >"$tree/etc/cloud/cloud.cfg.d/90-machine.cfg"
# No module can be loaded from a container, and later systemds call that a failure.
ln -s /dev/null "$tree/etc/systemd/system/systemd-modules-load.service"
# Each machine makes its own. An empty machine-id is one of an image; without the file systemd would ask a person to set it up.
rm -f "$tree/usr/sbin/policy-rc.d" "$tree/etc/resolv.conf" "$tree/var/lib/dbus/machine-id" "$tree/etc/hostname"
: >"$tree/etc/machine-id"
`

// debianTree returns a tree of a Debian release with systemd, cloud-init and containerd, and makes it where it is not in the cache.
func debianTree(ctx context.Context, suite string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("where to keep the Debian tree: %w", err)
	}
	sum := sha256.Sum256([]byte(strings.Join([]string{suite, first, then, recipe}, "\x00")))
	tree := filepath.Join(cache, "nodejoin", "machine-"+hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(tree); err == nil {
		return tree, nil
	}
	fmt.Fprintf(os.Stderr, "machine: making a tree of Debian %s for machines in %s, once (more than a minute)\n", suite, tree)
	if err := os.MkdirAll(filepath.Dir(tree), 0o755); err != nil {
		return "", err
	}
	making, err := os.MkdirTemp(filepath.Dir(tree), "machine-making-")
	if err != nil {
		return "", err
	}
	if err := makeTree(ctx, suite, making); err != nil {
		return "", errors.Join(fmt.Errorf("make a Debian tree: %w", err), os.RemoveAll(making))
	}
	if err := errors.Join(os.Chmod(making, 0o755), os.Rename(making, tree)); err != nil {
		return "", errors.Join(err, os.RemoveAll(making))
	}
	return tree, nil
}

func makeTree(ctx context.Context, suite, tree string) error {
	cmd := grouped(exec.CommandContext(ctx, "sh", "-c", recipe, "sh", tree))
	cmd.Env = append(os.Environ(), "FIRST="+first, "THEN="+then, "SUITE="+suite)
	log, err := os.CreateTemp("", "debootstrap-*.log")
	if err != nil {
		return err
	}
	defer os.Remove(log.Name())
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Run(); err != nil {
		if _, unread := log.Seek(0, io.SeekStart); unread != nil {
			return errors.Join(err, unread)
		}
		text, unread := io.ReadAll(log)
		return errors.Join(fmt.Errorf("%w; its log ends:\n%s", err, tail(string(text), 20)), unread)
	}
	return nil
}
