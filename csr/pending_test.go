package csr

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// TestPending keeps a request for the next run, as a crash would have it.
func TestPending(t *testing.T) {
	for _, algorithm := range []Algorithm{"ECDSA-P256", "ECDSA-P384", "RSA-2048"} {
		t.Run(string(algorithm), func(t *testing.T) {
			key, err := GenerateKey(algorithm)
			if err != nil {
				t.Fatal(err)
			}
			made, err := NewRequest(testTemplate, key)
			if err != nil {
				t.Fatal(err)
			}
			kept, err := made.MarshalPending()
			if err != nil {
				t.Fatal(err)
			}
			resumed, err := ResumeRequest(kept, testTemplate, algorithm)
			if err != nil {
				t.Fatal(err)
			}
			if resumed.Name != made.Name || !sameKey(resumed.Key.Public(), key.Public()) || resumed.compare(made.object()) != nil {
				t.Errorf("resumed %s, made %s", resumed.Name, made.Name)
			}
		})
	}
}

func TestPendingOtherWish(t *testing.T) {
	request := newRequest(t, testTemplate)
	kept, err := request.MarshalPending()
	if err != nil {
		t.Fatal(err)
	}
	for name, wish := range map[string]struct {
		template  Template
		algorithm Algorithm
	}{
		"another node":      {KubeletClient("node-2", 0), "ECDSA-P256"},
		"another lifetime":  {KubeletClient("node-1", time.Hour), "ECDSA-P256"},
		"another algorithm": {testTemplate, "RSA-2048"},
		"another curve":     {testTemplate, "ECDSA-P384"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ResumeRequest(kept, wish.template, wish.algorithm)
			wantFault(t, err, fault.Usage, "a request for something else is under way: "+request.Name)
			if !errors.Is(err, ErrOtherWish) || !strings.Contains(fault.Remedy(err), "--force") {
				t.Errorf("%v; the remedy is %q", err, fault.Remedy(err))
			}
		})
	}
	for name, data := range map[string]string{"empty": "", "a name alone": request.Name + "\n", "torn": string(kept[:len(kept)/2])} {
		t.Run(name, func(t *testing.T) {
			if _, err := ResumeRequest([]byte(data), testTemplate, "ECDSA-P256"); err == nil || fault.IsFinal(err) {
				t.Errorf("got %v", err)
			}
		})
	}
}
