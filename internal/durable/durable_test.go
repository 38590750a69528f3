package durable

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestWriteFileReplaces(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for _, content := range []string{"old", "new and longer", ""} {
		if err := WriteFile(path, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != content {
			t.Errorf("read %q, %v; want %q", got, err, content)
		}
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("left behind: %v", got)
	}
}

// A write that fails leaves what was there, and no temporary file.
func TestWriteFileFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "d") // a directory: nothing can be renamed over it
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, "old"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(path, []byte("new"), 0o600); err == nil {
		t.Error("a directory was replaced")
	}
	if got := names(t, dir); len(got) != 1 || got[0] != "d" {
		t.Errorf("left behind: %v", got)
	}
	if got := names(t, path); len(got) != 1 {
		t.Errorf("the old content: %v", got)
	}
	if err := WriteFile(filepath.Join(dir, "none", "f"), nil, 0o600); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("into no directory: %v", err)
	}
}

func TestReadFileLimit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, make([]byte, 10), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := ReadFile(path, 10); err != nil || len(b) != 10 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if _, err := ReadFile(path, 9); !errors.Is(err, ErrTooLarge) {
		t.Errorf("one byte too many: %v", err)
	}
	if _, err := ReadFile(path+"x", 9); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	l, err := LockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := LockDir(dir); !errors.Is(err, ErrLocked) {
		t.Errorf("the second lock: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l, err = LockDir(dir)
	if err != nil {
		t.Fatalf("after the first was let go: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := LockDir(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}

// saved makes slots with the contents one after the other and returns their path.
func saved(t *testing.T, contents ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state")
	s := OpenSlots(path)
	for _, c := range contents {
		if err := s.Save([]byte(c), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func wantLoad(t *testing.T, path, want string) *Slots {
	t.Helper()
	s := OpenSlots(path)
	got, err := s.Load()
	if err != nil || string(got) != want {
		t.Errorf("loaded %q, %v; want %q", got, err, want)
	}
	return s
}

func TestSlotsAlternate(t *testing.T) {
	path := saved(t)
	if _, err := OpenSlots(path).Load(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nothing saved: %v", err)
	}
	s := OpenSlots(path)
	for i := range 5 {
		want := fmt.Sprint("content ", i)
		if err := s.Save([]byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		s = wantLoad(t, path, want)
	}
	wantLoad(t, saved(t, ""), "")
}

// newest is the file of the n-th save.
func newest(path string, n int) string { return path + []string{".b", ".a"}[n%2] }

// Whatever happens to the newer file, at whichever byte, the older one counts; and the next save does not touch the one that
// counts.
func TestSlotsDamagedAtEachByte(t *testing.T) {
	for saves := 2; saves <= 3; saves++ {
		path := saved(t, []string{"one", "two", "three"}[:saves]...)
		older := []string{"one", "two"}[saves-2]
		file := newest(path, saves)
		whole, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var damaged [][]byte
		for i := range whole {
			flipped := bytes.Clone(whole)
			flipped[i] ^= 0x10
			damaged = append(damaged, whole[:i], flipped)
		}
		damaged = append(damaged, append(bytes.Clone(whole), 0), make([]byte, maxSlot+slotHeader+1))
		for i, b := range damaged {
			if err := os.WriteFile(file, b, 0o600); err != nil {
				t.Fatal(err)
			}
			s := wantLoad(t, path, older)
			if t.Failed() || !s.Older() {
				t.Fatalf("damage %d; it says that it may be older: %v", i, s.Older())
			}
			if i%10 != 0 {
				continue
			}
			good := newest(path, saves-1)
			before, err := os.ReadFile(good)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Save([]byte("next"), 0o600); err != nil {
				t.Fatal(err)
			}
			if after, err := os.ReadFile(good); err != nil || !bytes.Equal(before, after) {
				t.Fatalf("the save wrote over the only whole copy: %v", err)
			}
			if wantLoad(t, path, "next").Older() {
				t.Fatal("the newest may be older")
			}
		}
	}
}

func TestSlotsBothDamaged(t *testing.T) {
	path := saved(t, "one", "two")
	for _, ext := range []string{".a", ".b"} {
		if err := os.WriteFile(path+ext, []byte("HFS1"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := OpenSlots(path)
	if _, err := s.Load(); !errors.Is(err, ErrDamaged) {
		t.Errorf("error %v", err)
	}
	if err := s.Save([]byte("anew"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantLoad(t, path, "anew")
}

// A file that cannot be read may be the newest: nothing is decided without it.
func TestSlotsUnreadable(t *testing.T) {
	path := saved(t, "one", "two")
	if err := os.Remove(path + ".b"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path+".b", 0o700); err != nil { // reading a directory fails
		t.Fatal(err)
	}
	if b, err := OpenSlots(path).Load(); err == nil || errors.Is(err, ErrDamaged) || errors.Is(err, os.ErrNotExist) {
		t.Errorf("loaded %q, %v", b, err)
	}
}

func TestSlotsSaveFails(t *testing.T) {
	path := saved(t, "one")
	s := wantLoad(t, path, "one")
	if err := os.Mkdir(path+".b", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.Save([]byte("two"), 0o600); err == nil {
		t.Fatal("saved over a directory")
	}
	if err := os.Remove(path + ".b"); err != nil {
		t.Fatal(err)
	}
	wantLoad(t, path, "one")
	if err := s.Save([]byte("two"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantLoad(t, path, "two")
}
