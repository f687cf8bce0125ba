package rotate

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/nodejoin/nodejoin/rotate/pending"
)

// Staged is what surrounds a key pair, the CA bundle and the kubeconfig, durable under temporary names. It is made
// while the request still waits for its certificate, so that little is left to do once that is there.
type Staged struct {
	store          *Store
	ca, kubeconfig *pending.File
	content        map[string][]byte // of both, by path
}

// Stage makes the directories, and the CA bundle and the kubeconfig under temporary names. k.Pair is not looked at.
// The caller calls Discard in the end, whether or not the identity was committed.
func (s *Store) Stage(k *Kubeconfig) (*Staged, error) {
	err := s.prepare(claim{dirs: []string{s.paths.CertDir, filepath.Dir(s.paths.CAFile), filepath.Dir(s.paths.Kubeconfig)}})
	if err != nil {
		return nil, explain(err)
	}
	data, err := marshalKubeconfig(k, s.written.CAFile, s.Client.CurrentPath())
	if err != nil {
		return nil, fmt.Errorf("cannot write the kubeconfig: %w", err)
	}
	ca, err := stageFile(s.paths.CAFile, k.CA, access{mode: 0o644})
	if err != nil {
		return nil, explain(err)
	}
	kubeconfig, err := stageFile(s.paths.Kubeconfig, data, access{mode: 0o600})
	if err != nil {
		return nil, explain(errors.Join(err, discard(ca)))
	}
	return &Staged{store: s, ca: ca, kubeconfig: kubeconfig, content: map[string][]byte{s.paths.CAFile: k.CA, s.paths.Kubeconfig: data}}, nil
}

// Commit makes a new pair the current one. The order is such that whatever is found at any instant can be used: the
// pair under a name of its own, then the link to it, then the CA bundle, and at last the kubeconfig that names all of
// them.
func (st *Staged) Commit(pair *KeyPair, now time.Time) error {
	client := st.store.Client
	older, err := client.commitPair(pair, now, st.content)
	if err != nil {
		return explain(err)
	}
	if err := st.placeAround(); err != nil {
		return err
	}
	client.prune(older)
	return client.WriteCopies(pair)
}

// commitAround puts the CA bundle and the kubeconfig in place, around the pair that is there.
func (st *Staged) commitAround() error {
	if err := st.store.claim(claim{files: st.content}); err != nil {
		return err
	}
	return st.placeAround()
}

func (st *Staged) placeAround() error {
	if err := place(st.ca, st.store.paths.CAFile); err != nil {
		return explain(err)
	}
	return explain(place(st.kubeconfig, st.store.paths.Kubeconfig))
}

// Discard removes what was staged and not committed.
func (st *Staged) Discard() error { return errors.Join(discard(st.ca), discard(st.kubeconfig)) }

// Commit stages and commits an identity at once.
func (s *Store) Commit(k *Kubeconfig, now time.Time) error {
	staged, err := s.Stage(k)
	if err != nil {
		return err
	}
	return errors.Join(staged.Commit(k.Pair, now), staged.Discard())
}

// CommitKubeconfig writes the CA bundle and the kubeconfig around the current pair.
func (s *Store) CommitKubeconfig(k *Kubeconfig) error {
	staged, err := s.Stage(k)
	if err != nil {
		return err
	}
	return errors.Join(staged.commitAround(), staged.Discard())
}
