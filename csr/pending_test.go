package csr

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/test/expect"
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

func TestPendingName(t *testing.T) {
	for _, template := range []Template{testTemplate, servingTemplate(t), customTemplate} {
		request := newRequest(t, template)
		kept, err := request.MarshalPending()
		if err != nil {
			t.Fatal(err)
		}
		if got := PendingName(kept); got != request.Name {
			t.Errorf("got %q, want %q", got, request.Name)
		}
		_, key, _ := strings.Cut(string(kept), "\n")
		for _, text := range []string{"", "x", key, "x\n" + key} {
			if got := PendingName([]byte(text)); got != "" {
				t.Errorf("got %q for %q", got, text)
			}
		}
	}
}

// TestPendingOfEarlierVersion goes on with what a version kept that knew the kubelet's client certificate alone.
func TestPendingOfEarlierVersion(t *testing.T) {
	key, err := MarshalKey(keyOf(t, "node"))
	if err != nil {
		t.Fatal(err)
	}
	const name = "node-csr-DhRTQsNV1XNI-wAnYI6hK96zU9_SkLeuxreTM41mv6I"
	request, err := ResumeRequest(append([]byte(name+"\n"), key...), KubeletClient("node-1", time.Hour), "ECDSA-P256")
	if err != nil || request.Name != name {
		t.Errorf("got %v, %v", request, err)
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
		"another signer":    {servingTemplate(t), "ECDSA-P256"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ResumeRequest(kept, wish.template, wish.algorithm)
			expect.Fault(t, err, fault.Usage, "a request for something else is under way: "+request.Name)
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
