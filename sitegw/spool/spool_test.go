package spool

import (
	"fmt"
	"testing"

	"go.uber.org/goleak"

	"github.com/holdfast-edge/holdfast/internal/disk/simdisk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestQuick(t *testing.T) {
	d := simdisk.New(1)
	open := func() *Spool {
		s, err := Open(Config{Dir: "spool", FS: d, Segment: 1000})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open()
	n := 0
	for i := range 100 {
		s.Append(1, int64(i), fmt.Appendf(nil, "record %d", i), func(seq uint64, err error) {
			if err != nil || seq != uint64(n+1) {
				t.Error(seq, err)
			}
			n++
		})
		if i%7 == 6 {
			s.flush()
		}
	}
	s.flush()
	for range 2 {
		var after uint64
		for {
			p, err := s.Read(after, 10, 0)
			if err != nil || !p.Lost.Empty() {
				t.Fatal(p, err)
			}
			if len(p.Records) == 0 {
				break
			}
			for _, r := range p.Records {
				if string(r.Data) != fmt.Sprintf("record %d", r.Seq-1) {
					t.Fatal(r)
				}
			}
			after = p.After()
		}
		if after != 100 {
			t.Fatal(after)
		}
		fmt.Println(s.Status(), d.Files(), d.Used(), d.Handles())
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open()
	}
	if err := s.Trim(60); err != nil {
		t.Fatal(err)
	}
	fmt.Println(s.Status(), d.Files(), d.Used(), d.Handles())
	if err := s.Trim(100); err != nil {
		t.Fatal(err)
	}
	fmt.Println(s.Status(), d.Files(), d.Used(), d.Handles())
}
