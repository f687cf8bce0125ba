package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nodejoin/nodejoin/test/strategy"
)

// bed is all that the points have to work with.
type bed struct {
	*hardware
	older, newer   string // the package, in two versions
	shipped        string // what is in the older package
	nodejoin       string // the administrator's program: that of the older package
	shared, moving *cluster
	provider       *strategy.Provider // whose tokens the shared cluster knows
	measured       func()             // says that a boot was measured, and that the other stories may begin
}

// test is the inner process: it sets up the network and the clusters, checks the points and prints the report.
func (s *setup) test(ctx context.Context) error {
	keepFrozenSocket()
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
	b.shipped = filepath.Join(s.dir, "package")
	if _, err := command(ctx, "dpkg-deb", "--extract", s.older, b.shipped); err != nil {
		return err
	}
	b.nodejoin = filepath.Join(b.shipped, "usr/bin/nodejoin")
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
	fmt.Printf("\nThe machine test: Debian %s, systemd-nspawn, Kubernetes' own control plane\n", s.suite)
	var wrong []string
	for _, p := range points {
		p.print(os.Stdout)
		if p.verdict() != passed {
			wrong = append(wrong, p.number)
		}
	}
	fmt.Printf("\n%d points, %d of them failed or not reached; %.0f s for the clusters and the machines\n", len(points), len(wrong), time.Since(s.began).Seconds())
	if len(points) == 0 {
		return errors.New("no point was checked")
	}
	if len(wrong) > 0 {
		return errors.New("failed: " + strings.Join(wrong, ", "))
	}
	return nil
}

// story is a way through some points, one after the other.
type story struct {
	points []string
	tell   func(b *bed, ctx context.Context, next func(number, title string) *point)
}

// stories are all that there are. Point 3 is told of two kinds of credentials.
var stories = []story{
	{[]string{"1", "2", "3a"}, (*bed).tellOfBoots},
	{[]string{"4", "5"}, (*bed).tellOfUpgrades},
	{[]string{"9", "6"}, (*bed).tellOfIssuers},
	{[]string{"7", "3b"}, (*bed).tellOfThree},
	{[]string{"8"}, (*bed).tellOfPathUnit},
	{[]string{"rpm"}, (*bed).tellOfRPM},
}

// storyTimeout bounds each story.
const storyTimeout = 12 * time.Minute

// check checks the points, and returns them in the order of their numbers. The first boot is measured alone; the other
// stories begin after it, all at the same time: machines mostly wait.
func (b *bed) check(ctx context.Context, s *setup) []*point {
	t := told{bed: b}
	var telling sync.WaitGroup
	alone := make(chan struct{})
	b.measured = sync.OnceFunc(func() {
		close(alone)
		_ = os.WriteFile(filepath.Join(s.dir, bootMeasured), nil, 0o644) // without it the story of the rpm is not reached, and fails
	})
	for i, one := range stories {
		telling.Go(func() {
			if i == 0 {
				defer b.measured()
			} else {
				<-alone
			}
			if s.wants(one.points...) {
				t.tell(ctx, one)
			}
		})
	}
	telling.Wait()
	slices.SortFunc(t.points, func(a, b *point) int { return strings.Compare(a.number, b.number) })
	return t.points
}

// told are the points that stories have come to.
type told struct {
	*bed
	mu     sync.Mutex
	points []*point
}

func (t *told) add(p *point) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.points = append(t.points, p)
}

// tell tells a story. A panic fails the point that the story has come to, and those that it does not come to are reported as
// well.
func (t *told) tell(ctx context.Context, one story) {
	ctx, cancel := context.WithTimeout(ctx, storyTimeout)
	defer cancel()
	var last *point
	end := func() {
		if last != nil {
			last.took = time.Since(last.began)
		}
	}
	defer end()
	rest := one.points
	next := func(number, title string) *point {
		end()
		last = &point{number: number, title: title, began: time.Now()}
		t.add(last)
		rest = slices.DeleteFunc(slices.Clone(rest), func(other string) bool { return other == number })
		return last
	}
	_, err := safely(func() (string, error) {
		one.tell(t.bed, ctx, next)
		return "", nil
	})
	if err != nil {
		if last == nil {
			next(rest[0], "The start of its story")
		}
		last.add(ctx, "its story can be told", "", err, time.Since(last.began))
	}
	for _, number := range rest {
		t.add(&point{number: number, title: "Its story ended before it, with point " + last.number})
	}
}
