package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// frozenSocket is the file descriptor of the inner process's end of a socket to the outer one.
const frozenSocket = 3

// willFreeze gives a file system that will be frozen to the outer process, which thaws it when this process ends without having
// done so, in whatever way: whoever hangs in a frozen file system cannot be killed, and the namespaces would stay.
func willFreeze(path string) error {
	volume, err := os.Open(path)
	if err != nil {
		return err
	}
	defer volume.Close()
	if err := unix.Sendmsg(frozenSocket, []byte{0}, unix.UnixRights(int(volume.Fd())), nil, 0); err != nil {
		return fmt.Errorf("give %s to the outer process: %w", path, err)
	}
	return nil
}

// keepFrozenSocket keeps the socket from the programs that the inner process starts: its end is this process's end.
func keepFrozenSocket() { unix.CloseOnExec(frozenSocket) }

// runThawing runs the inner process, and thaws what it has frozen when it ends. The kernel closes the files of a process that
// is killed before it waits for the others in its namespace.
func runThawing(ctx context.Context, inner *exec.Cmd) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a socket to the inner process: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "outer"), os.NewFile(uintptr(pair[1]), "inner")
	defer ours.Close()
	inner.ExtraFiles = []*os.File{theirs}
	err = inner.Start()
	theirs.Close()
	if err != nil {
		return err
	}
	thawed := make(chan error, 1)
	go func() { thawed <- thawAtEnd(context.WithoutCancel(ctx), pair[0]) }()
	err = inner.Wait()
	return errors.Join(err, <-thawed)
}

// thawAtEnd collects file systems from a socket until its other end is closed, and thaws them.
func thawAtEnd(ctx context.Context, socket int) error {
	var volumes []*os.File
	for {
		data, rights := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
		n, m, _, _, err := unix.Recvmsg(socket, data, rights, unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return errors.Join(err, thawAll(ctx, volumes))
		}
		messages, err := unix.ParseSocketControlMessage(rights[:m])
		if err != nil {
			return errors.Join(err, thawAll(ctx, volumes))
		}
		for i := range messages {
			files, err := unix.ParseUnixRights(&messages[i])
			if err != nil {
				return errors.Join(err, thawAll(ctx, volumes))
			}
			for _, file := range files {
				volumes = append(volumes, os.NewFile(uintptr(file), "volume"))
			}
		}
	}
}

func thawAll(ctx context.Context, volumes []*os.File) error {
	var err error
	for _, volume := range volumes {
		thaw := grouped(exec.CommandContext(ctx, "fsfreeze", "--unfreeze", "/proc/self/fd/3"))
		thaw.ExtraFiles = []*os.File{volume}
		_, _ = output(thaw) // it is thawed already, if all went well
		err = errors.Join(err, volume.Close())
	}
	return err
}
