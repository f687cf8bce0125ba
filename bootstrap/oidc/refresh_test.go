package oidc

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodejoin/nodejoin/bootstrap"
)

// rotating is a provider that gives a new refresh token for each that is used, and takes none twice.
func (p *fakeProvider) rotating(next ...string) { p.rotatingFrom(firstRefresh, next...) }

func (p *fakeProvider) rotatingFrom(good string, next ...string) {
	p.set(func(w http.ResponseWriter, r *http.Request) {
		if r.PostForm.Get("refresh_token") != good {
			answer(http.StatusBadRequest, map[string]string{"error": "invalid_grant"})(w, r)
			return
		}
		if len(next) != 0 {
			good, next = next[0], next[1:]
		}
		answer(http.StatusOK, map[string]any{"access_token": accessToken, "id_token": jwt(lasting(time.Hour)), "refresh_token": good})(w, r)
	})
}

// TestRotation saves a refresh token that took the place of another.
func TestRotation(t *testing.T) {
	p := newProvider(t)
	p.rotating(secondRefresh, thirdRefresh)
	c, f := p.credential(t, nil)
	for _, want := range []string{secondRefresh, thirdRefresh, ""} {
		f.saved = nil
		if _, err := c.Proof(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSuffix(strings.Join(f.saved, ""), "\n"); got != want {
			t.Errorf("%q is saved, want %q", got, want)
		}
		c.Forget()
	}
	if f.log.Len() != 0 {
		t.Errorf("logged: %s", f.log.String())
	}
}

// TestRotationThatIsNotSaved goes on with the new token for as long as the process lives, saves it as soon as that works, and
// takes one that an operator puts into the file meanwhile.
func TestRotationThatIsNotSaved(t *testing.T) {
	full := errors.New("no space left on device")
	t.Run("and then is", func(t *testing.T) {
		p := newProvider(t)
		p.rotating(secondRefresh) // and keeps that
		c, f := p.credential(t, nil)
		f.refused = full
		for range 2 {
			if _, err := c.Proof(t.Context()); err != nil {
				t.Fatal(err)
			}
			c.Forget()
		}
		if n := strings.Count(f.log.String(), "level=ERROR"); n != 2 || !strings.Contains(f.log.String(), full.Error()) {
			t.Errorf("logged: %s", f.log.String())
		}
		wantSilence(t, f.log.String())
		f.refused, f.saved = nil, nil
		for range 2 {
			if _, err := c.Proof(t.Context()); err != nil {
				t.Fatal(err)
			}
			c.Forget()
		}
		if len(f.saved) != 1 || f.saved[0] != secondRefresh+"\n" {
			t.Errorf("saved: %q", f.saved)
		}
		afterwards := New(c.config) // as after a restart
		if _, err := afterwards.Proof(t.Context()); err != nil {
			t.Errorf("what is saved is not good: %v", err)
		}
	})
	t.Run("several times", func(t *testing.T) {
		p := newProvider(t)
		p.rotating(secondRefresh, thirdRefresh, "canary-refresh-4", "canary-refresh-5")
		c, f := p.credential(t, nil)
		f.refused = full
		for range 4 {
			if _, err := c.Proof(t.Context()); err != nil {
				t.Fatal(err)
			}
			c.Forget()
		}
	})
	t.Run("and is replaced by an operator, and not saved again", func(t *testing.T) {
		p := newProvider(t)
		p.rotating(secondRefresh)
		c, f := p.credential(t, nil)
		f.refused = full
		if _, err := c.Proof(t.Context()); err != nil {
			t.Fatal(err)
		}
		write(t, f.refresh, "canary-operator\n")
		p.rotatingFrom("canary-operator", "canary-operator-2")
		for range 2 {
			c.Forget()
			if _, err := c.Proof(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestSavedBeforeUse asks for the token while nothing can be read of the answer but what was saved: when Proof returns, it is.
func TestSavedBeforeUse(t *testing.T) {
	p := newProvider(t)
	p.set(answer(http.StatusOK, map[string]string{"access_token": accessToken, "refresh_token": secondRefresh})) // without an id_token
	c, f := p.credential(t, nil)
	if _, err := c.Proof(t.Context()); err == nil {
		t.Fatal("no error without an id_token")
	}
	if len(f.saved) != 1 || f.saved[0] != secondRefresh+"\n" {
		t.Errorf("saved: %q, although the old one is of no use any more", f.saved)
	}
}

// TestCache uses a token until shortly before it expires, by its own word or the provider's, and asks anew after Forget.
func TestCache(t *testing.T) {
	p := newProvider(t)
	for _, test := range []struct {
		name   string
		answer map[string]any
		asks   int // for three uses
	}{
		{"an hour by its own word", map[string]any{"access_token": accessToken, "id_token": jwt(lasting(time.Hour)), "expires_in": 1}, 1},
		{"an hour by the provider's", map[string]any{"access_token": accessToken, "id_token": jwt(`{}`), "expires_in": 3600}, 1},
		{"less than the leeway", map[string]any{"access_token": accessToken, "id_token": jwt(lasting(leeway - time.Second)), "expires_in": 3600}, 3},
		{"nobody says", map[string]any{"access_token": accessToken, "id_token": "opaque"}, 3},
		{"expired", map[string]any{"access_token": accessToken, "id_token": jwt(lasting(-time.Hour))}, 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			p.set(answer(http.StatusOK, test.answer))
			c, _ := p.credential(t, nil)
			for range 3 {
				if _, err := c.Proof(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if n := len(p.requests()); n != test.asks {
				t.Errorf("%d requests for three uses, want %d", n, test.asks)
			}
			c.Forget()
			if _, err := c.Proof(t.Context()); err != nil {
				t.Fatal(err)
			}
			if n := len(p.requests()); n != 1 {
				t.Errorf("%d requests after Forget, want 1", n)
			}
		})
	}
}

// TestHeld looks at what was shown last without asking: a token that says nothing of its end is not said to have expired.
func TestHeld(t *testing.T) {
	p := newProvider(t)
	for _, test := range []struct {
		name   string
		answer map[string]any
		want   string // what is said to be wrong with it
	}{
		{"nobody says", map[string]any{"access_token": accessToken, "id_token": "opaque"}, ""},
		{"valid", map[string]any{"access_token": accessToken, "id_token": jwt(lasting(time.Hour))}, ""},
		{"expired by its own word", map[string]any{"access_token": accessToken, "id_token": jwt(lasting(-time.Hour))}, "it expired at "},
	} {
		t.Run(test.name, func(t *testing.T) {
			p.set(answer(http.StatusOK, test.answer))
			c, _ := p.credential(t, nil)
			if held := c.Held(); held != nil {
				t.Errorf("before it was used it holds %v", held)
			}
			if _, err := c.Proof(t.Context()); err != nil {
				t.Fatal(err)
			}
			why, _ := bootstrap.WhyInvalid(t.Context(), c, time.Now().Add(time.Second), 0)
			if !strings.HasPrefix(why, test.want) || (why == "") != (test.want == "") {
				t.Errorf("it is said to be invalid: %q", why)
			}
			if n := len(p.requests()); n != 1 {
				t.Errorf("%d requests for one use", n)
			}
			c.Forget()
			if why, _ := bootstrap.WhyInvalid(t.Context(), c, time.Now(), 0); why != "" {
				t.Errorf("when it was forgotten: %q", why)
			}
		})
	}
}

// What has expired since it was got is not what is shown next.
func TestHeldIsNotStale(t *testing.T) {
	got := time.Now().Add(-2 * time.Hour)
	c := &Credential{proof: &bootstrap.Proof{NotAfter: got.Add(time.Hour)}, got: got}
	if held := c.Held(); held != nil {
		t.Errorf("it holds %v", held)
	}
}

// TestExpiry has a cached token come to its end.
func TestExpiry(t *testing.T) {
	p := newProvider(t)
	idToken := jwt(lasting(time.Hour))
	p.set(answer(http.StatusOK, map[string]any{"access_token": accessToken, "id_token": idToken}))
	c, _ := p.credential(t, nil)
	proof, err := c.Proof(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) { // in which nothing is asked for
		ours := &Credential{config: c.config, proof: proof}
		proof.NotAfter = time.Now().Add(time.Hour)
		time.Sleep(time.Hour - leeway - time.Second)
		if again, err := ours.Proof(t.Context()); err != nil || again != proof {
			t.Errorf("before its end: %v, %v", again, err)
		}
		time.Sleep(2 * time.Second)
		ours.config.RefreshTokenFile = t.TempDir() // so that asking fails before the network
		if again, err := ours.Proof(t.Context()); err == nil {
			t.Errorf("%s before its end %v is used", leeway, again)
		}
	})
}

// TestAskedOnce has many use the credential at the same time: the refresh token is spent once.
func TestAskedOnce(t *testing.T) {
	p := newProvider(t)
	p.rotating(secondRefresh, thirdRefresh)
	c, _ := p.credential(t, nil)
	var users sync.WaitGroup
	for range 10 {
		users.Go(func() {
			if _, err := c.Proof(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	users.Wait()
	if n := len(p.requests()); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
}

// TestOwnWrites tells what it has written to the file itself from what an operator has.
func TestOwnWrites(t *testing.T) {
	p := newProvider(t)
	p.rotating(secondRefresh)
	c, f := p.credential(t, nil)
	if c.Wrote(f.refresh) {
		t.Error("it has written nothing yet")
	}
	if _, err := c.Proof(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !c.Wrote(f.refresh) || c.Wrote(f.refresh+"2") {
		t.Error("it does not know its own file")
	}
	write(t, f.refresh, "canary-operator\n")
	if c.Wrote(f.refresh) {
		t.Error("an operator's token is not its own")
	}
}

// TestAnswerIsWaitedFor saves the new refresh token although nobody waits for the answer any more: the old one is spent.
func TestAnswerIsWaitedFor(t *testing.T) {
	p := newProvider(t)
	ctx, cancel := context.WithCancel(t.Context())
	p.set(func(w http.ResponseWriter, r *http.Request) {
		cancel() // the provider has noted it, and has not answered
		answer(http.StatusOK, map[string]any{"access_token": accessToken, "id_token": jwt(lasting(time.Hour)), "refresh_token": secondRefresh})(w, r)
	})
	c, f := p.credential(t, nil)
	if _, err := c.Proof(ctx); err != nil {
		t.Error(err)
	}
	if got := strings.Join(f.saved, ""); got != secondRefresh+"\n" {
		t.Errorf("%q is saved", got)
	}
}
