package testbed

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestProcessThatDoesNotStart(t *testing.T) {
	never := func(context.Context) error { return errors.New("nothing there") }
	tests := []struct {
		name   string
		script string
		path   string
		want   []string
	}{
		{"no such program", "", "/nonexistent", []string{"start sick", "no such file"}},
		{"ends with an error", "echo a cause; exit 3", "/bin/sh", []string{"ended before it was ready", "exit status 3", "a cause"}},
		{"ends well", "echo done", "/bin/sh", []string{"ended before it was ready", "exit status 0", "done"}},
		{"is not ready", "echo stuck; sleep 60", "/bin/sh", []string{"not ready", "nothing there", "deadline", "stuck"}},
		{"has no port", "echo bind: address already in use; exit 1", "/bin/sh", []string{"address already in use"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			process := &Process{
				Name: "sick", Path: test.path, Args: []string{"-c", test.script},
				Log: filepath.Join(t.TempDir(), "log"), Ready: never,
			}
			err := process.Start(within(t, time.Second))
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in %v", want, err)
				}
			}
			if process.PID() != 0 {
				t.Error("it runs")
			}
		})
	}
}

// A program that finds its port taken is started again.
func TestProcessRetriesItsPort(t *testing.T) {
	dir := t.TempDir()
	flag := filepath.Join(dir, "second")
	process := &Process{
		Name: "late", Path: "/bin/sh", Log: filepath.Join(dir, "log"),
		Args: []string{"-c", "test -e " + flag + " && exec sleep 60; touch " + flag + "; echo listen: address already in use; exit 1"},
	}
	process.Ready = func(context.Context) error {
		if process.PID() == 0 || strings.Count(process.Tail(9), "in use") != 1 {
			return errors.New("first attempt")
		}
		return pause(t.Context(), 100*time.Millisecond) // long enough for the first attempt to end
	}
	if err := process.Start(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	process.Kill()
}

func TestProcessEnds(t *testing.T) {
	process := &Process{Name: "shell", Path: "/bin/sh", Args: []string{"-c", "trap 'exit 7' TERM; echo up; while :; do sleep 0.01; done"}}
	process.Log = filepath.Join(t.TempDir(), "log")
	process.Ready = func(context.Context) error {
		if process.Tail(1) != "up" {
			return errors.New("not up")
		}
		return nil
	}
	if process.Done() != nil || process.Err() != nil || process.Stop() != nil || process.Pause() == nil {
		t.Error("a process that was never started has ended, or was paused")
	}
	if err := process.Start(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := process.Pause(); err != nil { // Stop must get through to a paused process
		t.Fatal(err)
	}
	if err := process.Stop(); err != nil {
		t.Fatal(err)
	}
	<-process.Done()
	var exit *exec.ExitError
	if !errors.As(process.Err(), &exit) || exit.ExitCode() != 7 {
		t.Errorf("it ended with %v", process.Err())
	}
}

const (
	// endingVariable makes the test binary start a control plane in the directory that leaveDirVariable names, and end
	// in the way that it says.
	endingVariable   = "TESTBED_ENDING"
	leaveDirVariable = "TESTBED_ENDING_DIR"
	controlPlaneUp   = "the control plane is up"
)

// leave is the whole life of a child of TestNothingIsLeft.
func leave(ending string) {
	if _, err := Start(context.Background(), Options{Dir: os.Getenv(leaveDirVariable)}); err != nil {
		fmt.Println(err)
		os.Exit(3)
	}
	fmt.Println(controlPlaneUp)
	switch ending {
	case "panic":
		panic("as told")
	case "exit":
		os.Exit(0)
	default:
		select {}
	}
}

// Whatever ends a test process ends its control plane.
func TestNothingIsLeft(t *testing.T) {
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, ending := range []string{"panic", "exit", "interrupt", "kill"} {
		t.Run(ending, func(t *testing.T) {
			dir := t.TempDir()
			child := exec.CommandContext(within(t, 2*time.Minute), executable)
			child.Env = append(os.Environ(), endingVariable+"="+ending, leaveDirVariable+"="+dir)
			stdout, err := child.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := spawn(child); err != nil {
				t.Fatal(err)
			}
			line, err := bufio.NewReader(stdout).ReadString('\n')
			if line != controlPlaneUp+"\n" {
				t.Fatalf("the child says %q (%v)", line, err)
			}
			switch ending {
			case "interrupt":
				err = child.Process.Signal(os.Interrupt)
			case "kill":
				if left := processesOf(t, dir); len(left) != 3 {
					t.Errorf("%d processes run in %s before the end, want 3: the test sees nothing", len(left), dir)
				}
				err = child.Process.Kill()
			}
			if err != nil {
				t.Fatal(err)
			}
			_ = child.Wait() // it ends as told, well or not
			err = poll(within(t, 10*time.Second), func(context.Context) error {
				if left := processesOf(t, dir); len(left) > 0 {
					return fmt.Errorf("processes %v still run", left)
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// processesOf returns the processes whose command line names a directory. One that has ended has no command line,
// waited for or not.
func processesOf(t *testing.T, dir string) []int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var found []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		if err == nil && bytes.Contains(line, []byte(dir+"/")) {
			found = append(found, pid)
		}
	}
	return found
}
