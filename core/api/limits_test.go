package api

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/registry"
)

// Whoever fails too often waits, with a good token too, and nobody else does.
func TestGuessing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCoreWith(t, "admin", defaultLimits)
		from := func(addr, bearer string) int {
			r := as(bearer, request("GET", "/v1/whoami", ""))
			r.RemoteAddr = addr
			w := c.do(r)
			if w.Code == http.StatusTooManyRequests {
				if p := problem(t, w, w.Code); p.Type != v1.ProblemLimited || w.Header().Get("Retry-After") != "5" {
					t.Errorf("%+v, Retry-After %q", p, w.Header().Get("Retry-After"))
				}
			}
			return w.Code
		}
		for _, source := range []struct{ a, same, other string }{
			{"192.0.2.7:1", "192.0.2.7:2", "192.0.2.8:1"},
			{"[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8:0:1::1]:1"},
			{"[::ffff:192.0.2.17]:1", "192.0.2.17:2", "192.0.2.18:2"},
		} {
			for i := range defaultLimits.failuresBurst {
				if got := from(source.a, "hfo1_wrong"); got != http.StatusUnauthorized {
					t.Fatalf("attempt %d: %d", i, got)
				}
			}
			for _, bearer := range []string{"hfo1_wrong", adminToken} {
				if got := from(source.same, bearer); got != http.StatusTooManyRequests {
					t.Errorf("%s with %s: %d", source.same, bearer, got)
				}
			}
			if got := from(source.other, adminToken); got != http.StatusOK {
				t.Errorf("%s: %d", source.other, got)
			}
			for _, path := range []string{"/healthz", "/readyz"} {
				r := request("GET", path, "")
				r.RemoteAddr = source.a
				if w := c.do(r); w.Code != http.StatusOK {
					t.Errorf("%s: %d", path, w.Code)
				}
			}
			<-time.After(5 * time.Second) // in the bubble's time
			if got := from(source.same, adminToken); got != http.StatusOK {
				t.Errorf("%s after the wait: %d", source.same, got)
			}
		}
	})
}

// An operator has a rate of its own.
func TestRequestsPerOperator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCoreWith(t, "admin", defaultLimits)
		other := c.operator("op-2", registry.RoleViewer)
		who := func(bearer string) int {
			w := c.do(as(bearer, request("GET", "/v1/whoami", "")))
			if w.Code == http.StatusTooManyRequests && w.Header().Get("Retry-After") != "1" {
				t.Errorf("Retry-After %q", w.Header().Get("Retry-After"))
			}
			return w.Code
		}
		for i := range defaultLimits.requestsBurst {
			if got := who(adminToken); got != http.StatusOK {
				t.Fatalf("request %d: %d", i, got)
			}
		}
		if a, b := who(adminToken), who(other); a != http.StatusTooManyRequests || b != http.StatusOK {
			t.Errorf("beyond the burst %d, another operator %d", a, b)
		}
		<-time.After(time.Second) // in the bubble's time
		served := 0
		for range 2 * int(defaultLimits.requests) {
			if who(adminToken) == http.StatusOK {
				served++
			}
		}
		if served != int(defaultLimits.requests) {
			t.Errorf("%d requests served after a second", served)
		}
	})
}

// So many requests are served at a time, and no operator takes all of them.
func TestRequestsAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		most := defaultLimits
		most.inFlight, most.inFlightEach = 5, 3
		c := newCoreWith(t, "admin", most)
		other := c.operator("op-2", registry.RoleViewer)
		goOn := make(chan struct{})
		c.mu.Lock()
		c.refuse = func(context.Context) error { <-goOn; return context.Canceled }
		c.mu.Unlock()
		done := make(chan int)
		hold := func(bearer string, n int) {
			for range n {
				go func() { done <- c.do(as(bearer, request("GET", "/v1/devices", ""))).Code }()
			}
			synctest.Wait()
		}
		busy := func(bearer string) {
			t.Helper()
			w := c.do(as(bearer, request("GET", "/v1/devices", "")))
			if p := problem(t, w, http.StatusServiceUnavailable); p.Type != v1.ProblemBusy || w.Header().Get("Retry-After") == "" {
				t.Errorf("got %+v", p)
			}
		}
		hold(adminToken, 3)
		busy(adminToken)
		hold(other, 2)
		busy(other)
		if w := c.do(request("GET", "/healthz", "")); w.Code != http.StatusOK {
			t.Errorf("health: %d", w.Code)
		}
		close(goOn)
		for range 5 {
			if got := <-done; got != http.StatusServiceUnavailable {
				t.Errorf("got %d", got)
			}
		}
		c.setRefuse(nil)
		for range 10 {
			if w := c.do(request("GET", "/v1/devices", "")); w.Code != http.StatusOK {
				t.Errorf("%d: a place was not given back", w.Code)
			}
		}
	})
}

func TestManyHeaders(t *testing.T) {
	c := newCore(t)
	for n, status := range map[int]int{maxHeaders: http.StatusOK, maxHeaders + 1: http.StatusRequestHeaderFieldsTooLarge} {
		r := request("GET", "/v1/whoami", "")
		for i := len(r.Header); i < n; i++ {
			r.Header.Add(fmt.Sprintf("X-%d", i/3), "v")
		}
		if w := c.do(r); w.Code != status {
			t.Errorf("%d fields: %d", n, w.Code)
		}
	}
}

// Every request has an id, which the client is told.
func TestRequestIDs(t *testing.T) {
	c := newCore(t)
	seen := make(map[string]bool)
	for _, path := range []string{"/v1/whoami", "/v1/nothing", "/healthz"} {
		id := c.do(request("GET", path, "")).Header().Get("X-Request-Id")
		if seen[id] || !strings.HasPrefix(id, "req-") {
			t.Errorf("%s: id %q", path, id)
		}
		seen[id] = true
	}
}
