package floor

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestFigureLine(t *testing.T) {
	for value, want := range map[float64]string{
		0: "0.000", 1.23456: "1.235", 12.3456: "12.35", 123.456: "123.5", 1234.56: "1235", 123456: "123456", -12.3456: "-12.35",
	} {
		fields := strings.Fields(Figure{"a.b", value, "us", "some note"}.String())
		if got := []string{"a.b", want, "us", "some", "note"}; !slices.Equal(fields, got) {
			t.Errorf("%v: %q, want %q", value, fields, got)
		}
	}
}

func TestMedianOf(t *testing.T) {
	same := func(d time.Duration) time.Duration { return d }
	for _, c := range []struct {
		values []time.Duration
		want   time.Duration
	}{{nil, 0}, {[]time.Duration{7}, 7}, {[]time.Duration{9, 1, 5}, 5}, {[]time.Duration{9, 1, 5, 3}, 4}} {
		if got := medianOf(c.values, same); got != c.want {
			t.Errorf("median of %v is %v, want %v", c.values, got, c.want)
		}
	}
}

func TestQuieterHalf(t *testing.T) {
	rounds := []float64{0.9, 0.1, 0.5, 0.2, 0.8}
	got := quieterHalf(rounds, func(f float64) float64 { return f })
	if want := []float64{0.1, 0.2, 0.5}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if rounds[0] != 0.9 {
		t.Error("the rounds were sorted in place")
	}
	if got := quieterHalf(nil, func(f float64) float64 { return f }); len(got) != 0 {
		t.Errorf("half of nothing is %v", got)
	}
}

// TestSummaries checks that a round with much foreign load does not count.
func TestSummaries(t *testing.T) {
	beats := func(us, foreign float64) HeartbeatRound {
		return HeartbeatRound{
			Beats: 1000, Elapsed: time.Second, ServerCPU: time.Duration(us * 1e6), ClientCPU: time.Duration(us * 2e6),
			P50: time.Millisecond, P99: 2 * time.Millisecond, Foreign: foreign,
		}
	}
	h := summarizeHeartbeat(5, []HeartbeatRound{beats(90, 1.5), beats(30, 0.1), beats(34, 0)})
	if h.ServerCPU != 32*time.Microsecond || h.ClientCPU != 64*time.Microsecond || h.Rate != 1000 || h.Foreign != 0.05 {
		t.Errorf("%+v", h)
	}
	registered := func(n uint64, foreign float64) RegistrationRound {
		return RegistrationRound{Registrations: n, Elapsed: 2 * time.Second, CPU: time.Second, Foreign: foreign}
	}
	r := summarizeRegistration(DefaultRegistration(3), []RegistrationRound{registered(100, 2), registered(1000, 0)})
	if r.Rate != 500 || r.CPU != time.Millisecond {
		t.Errorf("%+v", r)
	}
	if got := r.Figures()[0].Name; got != "registration.nodes3.batch100.rate" {
		t.Errorf("figure is named %s", got)
	}
}

func TestReadingSince(t *testing.T) {
	begin := time.Now()
	before := reading{
		at: begin, client: clientCounts{Completed: 10, Failed: 1, P50: time.Hour, P99: time.Hour},
		served: 11, serverCPU: 5 * time.Second, clientCPU: 7 * time.Second,
	}
	after := reading{
		at: begin.Add(2 * time.Second), client: clientCounts{Completed: 110, Failed: 3, P50: time.Millisecond, P99: time.Second},
		served: 112, serverCPU: 6 * time.Second, clientCPU: 9 * time.Second,
	}
	want := HeartbeatRound{
		Beats: 100, Failed: 2, Served: 101, Elapsed: 2 * time.Second, ServerCPU: time.Second, ClientCPU: 2 * time.Second,
		P50: time.Millisecond, P99: time.Second,
	}
	if got := after.since(&before); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
