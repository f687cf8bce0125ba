//go:build linux

package rotate

import (
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodejoin/nodejoin/test/expect"
)

// TestLookAt: each change of a file between two looks is found, and nothing else is.
func TestLookAt(t *testing.T) {
	const file, other = "/pki/file", "/pki/other"
	none, seen := []string{}, []string{file}
	for _, test := range []struct {
		name    string
		prepare func(t *testing.T, root string) // after two files were made
		act     func(t *testing.T, root string)
		want    []string
	}{
		{name: "nothing", act: func(*testing.T, string) {}, want: none},
		{name: "read", act: func(t *testing.T, root string) { read(t, root+file) }, want: none},
		{name: "another name in the directory", act: func(t *testing.T, root string) { write(t, root+"/pki/third", "x", 0o600) }, want: none},
		{name: "written", act: func(t *testing.T, root string) { write(t, root+file, "longer than it was", 0o600) }, want: seen},
		{name: "both", act: func(t *testing.T, root string) { replace(t, root+other, "x"); replace(t, root+file, "x") }, want: []string{file, other}},
		{name: "written, and made to look as if not", act: func(t *testing.T, root string) {
			info, err := os.Stat(root + file)
			must(t, err)
			expect.Eventually(t, "the clock of the file system goes on", func() bool {
				write(t, root+"/clock", "", 0o600)
				clock, err := os.Stat(root + "/clock")
				must(t, err)
				return clock.ModTime().After(info.ModTime())
			})
			write(t, root+file, "new", 0o600) // of the same length
			must(t, os.Chtimes(root+file, time.Time{}, info.ModTime()))
			if after, err := os.Stat(root + file); err != nil || !after.ModTime().Equal(info.ModTime()) || after.Size() != info.Size() {
				t.Fatalf("it does not look so: %v, %v", after, err)
			}
		}, want: seen},
		{name: "replaced by the same", act: func(t *testing.T, root string) { replace(t, root+file, "old") }, want: seen},
		{name: "removed", act: func(t *testing.T, root string) { must(t, os.Remove(root+file)) }, want: seen},
		{name: "made", prepare: func(t *testing.T, root string) { must(t, os.Remove(root+file)) }, act: func(t *testing.T, root string) { write(t, root+file, "new", 0o600) }, want: seen},
		{name: "not there, and then not there", prepare: func(t *testing.T, root string) { must(t, os.Remove(root+file)) }, act: func(*testing.T, string) {}, want: none},
		{name: "not there, and then without its directory", prepare: func(t *testing.T, root string) { must(t, os.Remove(root+file)) }, act: func(t *testing.T, root string) { must(t, os.RemoveAll(root+"/pki")) }, want: []string{other}},
		{name: "a file for its directory", prepare: func(t *testing.T, root string) { must(t, os.RemoveAll(root+"/pki")) }, act: func(t *testing.T, root string) { write(t, root+"/pki", "", 0o600) }, want: []string{file, other}},
		{name: "mode", act: func(t *testing.T, root string) { must(t, os.Chmod(root+file, 0o640)) }, want: seen},
		{name: "truncated", act: func(t *testing.T, root string) { must(t, os.Truncate(root+file, 1)) }, want: seen},
		{name: "its directory was replaced", act: func(t *testing.T, root string) {
			must(t, os.Rename(root+"/pki", root+"/last"))
			write(t, root+file, "old", 0o600)
			must(t, os.Link(root+"/last/other", root+other))
		}, want: []string{file, other}},
		{name: "a link for the file", act: func(t *testing.T, root string) {
			must(t, os.Rename(root+file, root+"/elsewhere"))
			link(t, "../elsewhere", root+file)
		}, want: seen},
		{
			name: "a link leads elsewhere, to the same file", prepare: func(t *testing.T, root string) {
				must(t, os.Rename(root+file, root+"/elsewhere"))
				link(t, "../elsewhere", root+file)
			},
			act: func(t *testing.T, root string) { must(t, swapLink(root+file, root+"/elsewhere")) }, want: seen,
		},
		{
			name: "what a link leads to", prepare: func(t *testing.T, root string) {
				must(t, os.Rename(root+file, root+"/elsewhere"))
				link(t, "../pki2/a", root+file)
				link(t, root+"/elsewhere", root+"/pki2/a")
			},
			act: func(t *testing.T, root string) { write(t, root+"/elsewhere", "longer than it was", 0o600) }, want: seen,
		},
		{
			name: "a link on the way", prepare: func(t *testing.T, root string) {
				must(t, os.Rename(root+"/pki", root+"/1"))
				write(t, root+"/2/file", "old", 0o600)
				link(t, "1", root+"/pki")
			},
			act: func(t *testing.T, root string) { must(t, swapLink(root+"/pki", "2")) }, want: []string{file, other},
		},
		{
			name: "a link behind a link on the way", prepare: func(t *testing.T, root string) {
				must(t, os.Rename(root+"/pki", root+"/deep"))
				must(t, os.Mkdir(root+"/a", 0o755))
				must(t, os.Rename(root+"/deep", root+"/a/deep"))
				link(t, "a/deep", root+"/pki")
				must(t, os.Rename(root+"/a/deep/file", root+"/a/target"))
				link(t, "../target", root+"/a/deep/file") // from the directory that it is really in
			},
			act: func(t *testing.T, root string) { write(t, root+"/a/target", "longer than it was", 0o600) }, want: seen,
		},
		{
			name: "a link to itself, and then a file", prepare: func(t *testing.T, root string) {
				must(t, os.Remove(root+file))
				link(t, "file", root+file)
			},
			act: func(t *testing.T, root string) { replace(t, root+file, "new") }, want: seen,
		},
		{
			name: "a link to itself, twice", prepare: func(t *testing.T, root string) {
				must(t, os.Remove(root+file))
				link(t, "file", root+file)
			},
			act: func(*testing.T, string) {}, want: none,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			root := t.TempDir()
			write(t, root+file, "old", 0o600)
			write(t, root+other, "other", 0o600)
			if test.prepare != nil {
				test.prepare(t, root)
			}
			paths := []string{root + file, root + other}
			before := LookAt(paths)
			if changed := before.Changed(LookAt(paths)); len(changed) != 0 {
				t.Errorf("nothing was done, and %q is said to have changed", changed)
			}
			test.act(t, root)
			after := LookAt(paths)
			want := []string{}
			for _, path := range test.want {
				want = append(want, root+path)
			}
			if got := before.Changed(after); !slices.Equal(got, want) {
				t.Errorf("%q is said to have changed (-want +got):\n%s", got, cmp.Diff(want, got))
			}
		})
	}
}

// TestLookAtTwin: another file is another, even if it has the same length and the same times.
func TestLookAtTwin(t *testing.T) {
	root := t.TempDir()
	path, first, second := root+"/pki/file", root+"/1/file", root+"/2/file"
	link(t, "1", root+"/pki")
	twins := func() bool {
		must(t, os.RemoveAll(root+"/1"))
		must(t, os.RemoveAll(root+"/2"))
		must(t, errors.Join(os.Mkdir(root+"/1", 0o755), os.Mkdir(root+"/2", 0o755)))
		// One right after the other, and with no look between: Linux tells the times apart of what was looked at.
		must(t, errors.Join(os.WriteFile(first, []byte("x"), 0o600), os.WriteFile(second, []byte("x"), 0o600)))
		a, b := LookAt([]string{first}).files[0], LookAt([]string{second}).files[0]
		return a.ctime == b.ctime && a.mtime == b.mtime
	}
	for tries := 0; !twins(); tries++ {
		if tries == 1000 {
			t.Skip("the clock of the file system is too fine")
		}
	}
	before := LookAt([]string{path})
	must(t, swapLink(root+"/pki", "2"))
	if got := before.Changed(LookAt([]string{path})); !slices.Equal(got, []string{path}) {
		t.Errorf("got %q", got)
	}
}

// TestLookAtOthers: what was not looked at before has changed, what is not looked at any more has not.
func TestLookAtOthers(t *testing.T) {
	root := t.TempDir()
	a, b, c := root+"/a", root+"/b", root+"/c"
	write(t, a, "", 0o600)
	write(t, b, "", 0o600)
	for _, test := range []struct{ before, after, want []string }{
		{nil, nil, nil},
		{nil, []string{b, a}, []string{b, a}},
		{[]string{a}, []string{a, b}, []string{b}},
		{[]string{a}, []string{c, a}, []string{c}}, // not there, which is news
		{[]string{a, b, c}, []string{c, b, a}, nil},
		{[]string{a, b}, nil, nil},
		{[]string{a, b}, []string{b}, nil},
	} {
		if got := LookAt(test.before).Changed(LookAt(test.after)); !slices.Equal(got, test.want) {
			t.Errorf("%q, then %q: %q, want %q", test.before, test.after, got, test.want)
		}
	}
	if got := (Look{}).Changed(LookAt([]string{a})); !slices.Equal(got, []string{a}) {
		t.Errorf("after no look at all: %q", got)
	}
}
