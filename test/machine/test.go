package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// bed is all that the points have to work with.
type bed struct {
	*hardware
	older, newer   string // the package, in two versions
	nodejoin       string // the administrator's program: that of the older package
	shared, moving *cluster
}

// test is the inner process: it sets up the network and the clusters, checks the points and prints the report.
func (s *setup) test(ctx context.Context) error {
	if err := enter(); err != nil {
		return err
	}
	network, err := newNetwork(ctx)
	if err != nil {
		return err
	}
	b := &bed{
		hardware: &hardware{dir: s.dir, tree: s.tree, groups: strings.Split(os.Getenv(cgroupsVariable), ":"), network: network},
		older:    s.older, newer: s.newer,
	}
	unpacked := filepath.Join(s.dir, "package")
	if _, err := command(ctx, "dpkg-deb", "--extract", s.older, unpacked); err != nil {
		return err
	}
	b.nodejoin = filepath.Join(unpacked, "usr/bin/nodejoin")
	if err := b.startClusters(ctx, s); err != nil {
		return err
	}
	defer b.stopClusters()
	points := b.check(ctx, s)
	if err := ctx.Err(); err != nil {
		return err
	}
	return report(points, s)
}

// report prints the report, and returns an error when a check failed.
func report(points []*point, s *setup) error {
	fmt.Printf("\nThe machine test: Debian %s, systemd-nspawn, Kubernetes' own control plane\n", suite)
	var wrong []string
	for _, p := range points {
		p.print(os.Stdout)
		if !p.ok() {
			wrong = append(wrong, p.number)
		}
	}
	fmt.Printf("\n%d points, %d of them failed; %.0f s in all\n", len(points), len(wrong), time.Since(s.began).Seconds())
	if len(wrong) > 0 {
		return errors.New("failed: " + strings.Join(wrong, ", "))
	}
	return nil
}

// story is a way through some points, one after the other.
type story struct {
	points []string
	tell   func(ctx context.Context, next func(number, title string) *point)
}

// storyTimeout bounds each story.
const storyTimeout = 8 * time.Minute

// check checks the points, and returns them in the order of their numbers. The first is checked alone, since it says how long
// a boot takes; the stories go on at the same time after it.
func (b *bed) check(ctx context.Context, s *setup) []*point {
	stories := []story{
		{[]string{"1", "2", "3"}, b.tellOfBoots},
		{[]string{"4", "5"}, b.tellOfUpgrades},
		{[]string{"6"}, b.tellOfWatchdog},
		{[]string{"7"}, b.tellOfThree},
		{[]string{"rpm"}, b.tellOfRPM},
	}
	var t told
	t.points = map[string][]*point{}
	var telling sync.WaitGroup
	alone := make(chan struct{})
	for i, one := range stories {
		if i == 0 {
			telling.Go(func() {
				over := sync.OnceFunc(func() { close(alone) })
				defer over()
				if s.wants(one.points...) {
					t.tell(ctx, one, over)
				}
			})
			continue
		}
		if s.wants(one.points...) {
			telling.Go(func() {
				<-alone
				t.tell(ctx, one, func() {})
			})
		}
	}
	telling.Wait()
	var points []*point
	for _, one := range stories {
		for _, number := range one.points {
			points = append(points, t.points[number]...)
		}
	}
	return points
}

// told are the points that stories have come to.
type told struct {
	mu     sync.Mutex
	points map[string][]*point // by number
}

// tell tells a story. over is called when its first point is over.
func (t *told) tell(ctx context.Context, one story, over func()) {
	ctx, cancel := context.WithTimeout(ctx, storyTimeout)
	defer cancel()
	var last *point
	end := func() {
		if last != nil {
			last.took = time.Since(last.began)
			over()
		}
	}
	defer end()
	one.tell(ctx, func(number, title string) *point {
		end()
		last = &point{number: number, title: title, began: time.Now()}
		t.mu.Lock()
		t.points[number] = append(t.points[number], last)
		t.mu.Unlock()
		return last
	})
}
