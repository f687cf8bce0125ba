package rotate

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Removal says what a reset removes and what it leaves, by path on this machine.
type Removal struct {
	Removed []string `json:"removed"` // in this order
	Left    []Left   `json:"left,omitempty"`
}

// Left is a file of the identity that stays.
type Left struct {
	Path string `json:"path"`
	Why  string `json:"why"`
}

// resetPlan is a removal before it is carried out.
type resetPlan struct {
	Removal
	dirs map[string]bool // which of Removed are directories
}

func (p *resetPlan) add(paths ...string) {
	for _, path := range paths {
		p.Removed = appendNew(p.Removed, path)
	}
}

// PlanReset returns what [Store.Reset] would do now. Nothing is changed.
func (s *Store) PlanReset() (*Removal, error) {
	plan, err := s.planReset()
	if err != nil {
		return nil, err
	}
	return &plan.Removal, nil
}

// planReset makes the order such that a reset that dies can be run again: what is remembered goes when everything that
// it tells of is gone, but for the directories that it is in.
func (s *Store) planReset() (*resetPlan, error) {
	state, err := s.State()
	if err != nil {
		return nil, err
	}
	s.enterDirs(&state, s.madeDirs()) // the lock's, say
	plan := &resetPlan{Removal: Removal{Removed: []string{}}, dirs: map[string]bool{}}
	order := s.resetOrder(&state)
	for _, path := range order {
		switch why := s.whyLeave(&state, path); {
		case isMissing(path):
		case why == "":
			plan.add(path)
		default:
			plan.Left = append(plan.Left, Left{path, why})
		}
	}
	for _, path := range order {
		found, _ := leftovers(filepath.Dir(path), regexp.QuoteMeta(filepath.Base(path))) // none in a directory that is not there
		plan.add(found...)
	}
	found, _ := leftovers(s.Client.dir, regexp.QuoteMeta(ClientName)+pairDigits)
	plan.add(found...)
	own, err := s.ownFiles()
	if err != nil {
		return nil, err
	}
	plan.add(own...)
	s.planDirs(plan, state.MadeDirs, false)
	if file := filepath.Join(s.paths.StateDir, stateName); !isMissing(file) {
		plan.add(file)
	}
	s.planDirs(plan, append(slices.Clone(state.MadeDirs), s.off(s.paths.StateDir)), true)
	return plan, nil
}

// resetOrder returns the identity's files, what this program made and what it did not: first the kubeconfig, which names
// the others, then the links, and at last what they lead to. Whatever the state says, they are below the root.
func (s *Store) resetOrder(state *State) []string {
	var links, rest []string
	for path, content := range state.Made {
		switch path = s.on(path); {
		case path == s.paths.Kubeconfig, !s.isBelowRoot(path):
		case content == "":
			links = append(links, path)
		default:
			rest = append(rest, path)
		}
	}
	slices.Sort(links)
	slices.Sort(rest)
	order := slices.Concat([]string{s.paths.Kubeconfig}, links, rest)
	order = appendNew(order, filepath.Join(s.Client.dir, s.Client.currentName()))
	if files, err := s.Client.pairFiles(); err == nil {
		for _, file := range files {
			order = appendNew(order, filepath.Join(s.Client.dir, file))
		}
	}
	return appendNew(order, s.paths.CAFile)
}

// whyLeave returns why a file is not to be removed, or "".
func (s *Store) whyLeave(state *State, path string) string {
	digests, made := state.Made[s.off(path)]
	switch {
	case !made:
		return "nodejoin did not make it"
	case digests == "":
		return s.whyLeaveLink(state, path)
	case !slices.Contains(strings.Fields(digests), fileDigest(path)):
		return "it was changed by somebody else"
	}
	return ""
}

// whyLeaveLink is whyLeave of a link. One that does not lead to a file that goes was made by somebody else.
func (s *Store) whyLeaveLink(state *State, path string) string {
	target, err := os.Readlink(path)
	switch {
	case err == nil:
	case copiesForLinks && state.hasMade(fileDigest(path)):
		return ""
	default:
		return "it is no link any more"
	}
	if !filepath.IsAbs(target) {
		target = filepath.Join(filepath.Dir(s.off(path)), target)
	}
	target = filepath.Clean(target)
	switch digests := state.Made[target]; {
	case digests == "":
		return "it leads to a file that nodejoin did not make"
	case !isMissing(s.on(target)) && s.whyLeave(state, s.on(target)) != "":
		return "it leads to a file that was changed by somebody else"
	}
	return ""
}

// hasMade reports whether this program made a file with this content.
func (state *State) hasMade(digest string) bool {
	for _, digests := range state.Made {
		if digest != "" && slices.Contains(strings.Fields(digests), digest) {
			return true
		}
	}
	return false
}

// ownFiles returns the files in the state directory, which is this program's alone, but for the state.
func (s *Store) ownFiles() ([]string, error) {
	entries, err := os.ReadDir(s.paths.StateDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, unreadable(err)
	}
	var own []string
	for _, entry := range entries {
		if name := entry.Name(); !entry.IsDir() && (strings.Contains(name, pendingSuffix) || strings.HasPrefix(name, "."+stateName)) {
			own = append(own, filepath.Join(s.paths.StateDir, name))
		}
	}
	return own, nil
}

// planDirs adds those directories, innermost first, that nothing is in but what goes: with home those that hold the
// state, else the others.
func (s *Store) planDirs(plan *resetPlan, dirs []string, home bool) {
	dirs = slices.Clone(dirs)
	slices.Sort(dirs) // a directory comes before what is in it
	for _, dir := range slices.Backward(slices.Compact(dirs)) {
		dir = s.on(dir)
		if s.isBelowRoot(dir) && holds(dir, s.paths.StateDir) == home && goesEmpty(dir, plan.Removed) {
			plan.add(dir)
			plan.dirs[dir] = true
		}
	}
}

// holds reports whether a path is dir or below it.
func holds(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}

// goesEmpty reports whether dir is a directory, and no link to one, that has nothing in it but what is removed.
func goesEmpty(dir string, removed []string) bool {
	if info, err := os.Lstat(dir); err != nil || !info.IsDir() {
		return false
	}
	entries, err := os.ReadDir(dir)
	return err == nil && !slices.ContainsFunc(entries, func(entry fs.DirEntry) bool {
		return !slices.Contains(removed, filepath.Join(dir, entry.Name()))
	})
}

// Reset removes the identity as far as this program made it, and what it remembers. It wants the [Lock] held. What it
// returns is what was done, on failure too. A reset that died or failed is run again.
func (s *Store) Reset() (*Removal, error) {
	plan, err := s.planReset()
	if err != nil {
		return nil, err
	}
	done := &Removal{Removed: []string{}, Left: plan.Left}
	for _, path := range plan.Removed {
		if plan.dirs[path] {
			if !removeDir(path) {
				continue // something was put in it meanwhile
			}
		} else if err := removeFile(path); err != nil {
			return done, explain(err)
		}
		done.Removed = append(done.Removed, path)
	}
	return done, nil
}
