package artifact

import (
	"errors"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/holdfast-edge/holdfast/wire"
)

// chunksOf are chunks of these sizes.
func chunksOf(sizes ...uint32) (c Chunks) {
	for i, n := range sizes {
		c.Add(Chunk{wire.Digest{byte(i + 1)}, n})
	}
	return c
}

// sample is a manifest with everything that a manifest may have.
func sample() *Manifest {
	return &Manifest{
		Format: Format, Name: "camera", Version: "1.4.2+Build-7", Number: 17, Kind: KindTree,
		Fits: Compatibility{
			Arch: []string{"arm64", "amd64"}, SoC: []string{"nvidia-jetson-xavier-nx"}, Accelerators: []string{"nvidia-gpu"}, MinRAM: 2 << 30, OS: []string{"Ubuntu 22.04"},
		},
		Health: []Check{
			{Kind: CheckFile, Path: "bin/camera"},
			{Kind: CheckExec, Path: "bin/check", Args: []string{"--fast", ""}, TimeoutMS: 3000, EveryMS: 500},
			{Kind: CheckHTTP, Port: 8080, Path: "/healthz"},
			{Kind: CheckTCP, Port: 5432},
			{Kind: CheckUnit, Unit: "camera@1.service"},
		},
		SoakMS: 300_000, StartMS: 90_000, Unit: "camera.service",
		Entries: []Entry{
			{Path: "bin", Type: TypeDir, Mode: 0o755},
			{Path: "bin-empty", Type: TypeFile, Mode: 0o644, Digest: wire.DigestOf(nil)},
			{Path: "bin/camera", Type: TypeFile, Mode: 0o755, Size: wire.MaxChunk + 9, Digest: wire.Digest{1}, Chunks: chunksOf(wire.MaxChunk, 9)},
			{Path: "bin/check", Type: TypeFile, Mode: 0o755, Size: 100, Digest: wire.Digest{2}, Chunks: chunksOf(100)},
			{Path: "current", Type: TypeSymlink, Target: "lib/deep"},
			{Path: "lib", Type: TypeDir, Mode: 0o755},
			{Path: "lib/deep", Type: TypeDir, Mode: 0o700},
			{Path: "lib/deep/up", Type: TypeSymlink, Target: "../../bin"},
		},
		Patches: []Patch{
			{Base: wire.Digest{8}, BaseSize: 50, File: wire.Digest{2}, Size: 20, Chunks: chunksOf(20)},
			{Base: wire.Digest{9}, BaseSize: 4000, File: wire.Digest{1}, Size: 30, Chunks: chunksOf(10, 20)},
			{Base: wire.Digest{9}, BaseSize: 4000, File: wire.Digest{2}, Size: 30, Chunks: chunksOf(30)},
		},
	}
}

func TestCheckTakesTheSample(t *testing.T) {
	m := sample()
	if err := m.Check(); err != nil {
		t.Fatal(err)
	}
	b, d, err := m.Encode()
	if err != nil || d != wire.DigestOf(b) {
		t.Fatalf("digest %v, error %v", d, err)
	}
	got, err := Decode(b)
	if err != nil || !reflect.DeepEqual(got, m) {
		t.Errorf("it reads as %+v, error %v", got, err)
	}
	if m.Size() != wire.MaxChunk+109 {
		t.Errorf("size %d", m.Size())
	}
}

// file is a manifest of kind file.
func file() *Manifest {
	return &Manifest{
		Format: Format, Name: "a", Version: "1", Number: 1, Kind: KindFile,
		Entries: []Entry{{Path: "a", Type: TypeFile, Mode: 0o755, Size: 1, Chunks: chunksOf(1)}},
	}
}

func at(m *Manifest, path string) *Entry {
	for i := range m.Entries {
		if m.Entries[i].Path == path {
			return &m.Entries[i]
		}
	}
	panic("no entry " + path)
}

func link(target string) func(*Manifest) {
	return func(m *Manifest) { at(m, "lib/deep/up").Target = target }
}

// add puts an entry at the end of the sample; its path sorts there.
func add(e Entry) func(*Manifest) {
	return func(m *Manifest) { m.Entries = append(m.Entries, e) }
}

func emptyFile(path string) Entry { return Entry{Path: path, Type: TypeFile, Mode: 0o644} }

// Every rule, broken once.
func TestCheckRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*Manifest)
		want  string
	}{
		"format":          {func(m *Manifest) { m.Format = 2 }, "format 2"},
		"no name":         {func(m *Manifest) { m.Name = "" }, "name"},
		"name with slash": {func(m *Manifest) { m.Name = "a/b" }, "name"},
		"name of dots":    {func(m *Manifest) { m.Name = ".." }, "name"},
		"capital name":    {func(m *Manifest) { m.Name = "Camera" }, "name"},
		"long name":       {func(m *Manifest) { m.Name = strings.Repeat("a", 65) }, "name"},
		"name with @":     {func(m *Manifest) { m.Name = "a@b" }, "name"},
		"no version":      {func(m *Manifest) { m.Version = "" }, "version"},
		"version: space":  {func(m *Manifest) { m.Version = "1 2" }, "version"},
		"version: +":      {func(m *Manifest) { m.Version = "+1" }, "version"},
		"no number":       {func(m *Manifest) { m.Number = 0 }, "release number"},
		"no kind":         {func(m *Manifest) { m.Kind = 0 }, "kind 0"},
		"another kind":    {func(m *Manifest) { m.Kind = 3 }, "kind 3"},
		"soak":            {func(m *Manifest) { m.SoakMS = 86_400_001 }, "soak"},
		"start":           {func(m *Manifest) { m.StartMS = 86_400_001 }, "start"},
		"unit: no suffix": {func(m *Manifest) { m.Unit = "camera" }, "unit"},
		"unit: path":      {func(m *Manifest) { m.Unit = "../camera.service" }, "unit"},
		"unit: space":     {func(m *Manifest) { m.Unit = "a b.service" }, "unit"},
		"unit: long":      {func(m *Manifest) { m.Unit = strings.Repeat("u", 128) + ".service" }, "unit"},

		"fits: many":      {func(m *Manifest) { m.Fits.Arch = strings.Split(strings.Repeat("a ", 33), " ")[:33] }, "33 values"},
		"fits: empty":     {func(m *Manifest) { m.Fits.SoC = []string{""} }, "soc"},
		"fits: long":      {func(m *Manifest) { m.Fits.OS = []string{strings.Repeat("o", 129)} }, "os"},
		"fits: line":      {func(m *Manifest) { m.Fits.Accelerators = []string{"a\nb"} }, "accelerators"},
		"many checks":     {func(m *Manifest) { m.Health = make([]Check, MaxChecks+1) }, "17 health checks"},
		"check: no kind":  {func(m *Manifest) { m.Health[0].Kind = 0 }, "health check 1"},
		"check: new kind": {func(m *Manifest) { m.Health[4].Kind = 6 }, "health check 5"},
		"check: out":      {func(m *Manifest) { m.Health[0].Path = "../bin/camera" }, "health check 1"},
		"check: absolute": {func(m *Manifest) { m.Health[1].Path = "/bin/sh" }, "health check 2"},
		"check: args":     {func(m *Manifest) { m.Health[1].Args = make([]string, MaxArgs+1) }, "33 arguments"},
		"check: long arg": {func(m *Manifest) { m.Health[1].Args[0] = strings.Repeat("a", 1025) }, "too long"},
		"check: bad arg":  {func(m *Manifest) { m.Health[1].Args[0] = "\xff" }, "no text"},
		"file with args":  {func(m *Manifest) { m.Health[0].Args = []string{"a"} }, "only exec"},
		"http: no port":   {func(m *Manifest) { m.Health[2].Port = 0 }, "http wants"},
		"http: host":      {func(m *Manifest) { m.Health[2].Path = "example.com/" }, "http wants"},
		"http: line":      {func(m *Manifest) { m.Health[2].Path = "/\r\n" }, "http wants"},
		"tcp: no port":    {func(m *Manifest) { m.Health[3].Port = 0 }, "tcp wants"},
		"unit: none":      {func(m *Manifest) { m.Health[4].Unit = "" }, "health check 5"},

		"path: empty":      {add(emptyFile("")), "not relative"},
		"path: absolute":   {add(emptyFile("/etc/passwd")), "not relative"},
		"path: out":        {add(emptyFile("../x")), "not relative"},
		"path: out later":  {add(emptyFile("x/../../y")), "not relative"},
		"path: ..":         {add(emptyFile("..")), "not relative"},
		"path: .":          {add(emptyFile(".")), "not relative"},
		"path: ./":         {add(emptyFile("./x")), "not relative"},
		"path: //":         {add(emptyFile("x//y")), "not relative"},
		"path: slash":      {add(emptyFile("x/")), "not relative"},
		"path: zero byte":  {add(emptyFile("x\x00")), "not relative"},
		"path: no text":    {add(emptyFile("x\xff")), "not relative"},
		"path: long":       {add(emptyFile("x/" + strings.Repeat("y/", 511) + "z")), "not relative"},
		"path: element":    {add(emptyFile(strings.Repeat("x", 256))), "element"},
		"no directory":     {add(emptyFile("x/y")), "its directory is no entry"},
		"in a file":        {add(emptyFile("lib/deep/up/x")), "its directory is no entry"},
		"in a link":        {func(m *Manifest) { at(m, "lib").Type = TypeSymlink; at(m, "lib").Mode = 0; at(m, "lib").Target = "bin" }, "its directory is no entry"},
		"twice":            {add(Entry{Path: "lib/deep/up", Type: TypeDir}), "not in order"},
		"not in order":     {func(m *Manifest) { m.Entries[1], m.Entries[2] = m.Entries[2], m.Entries[1] }, "in order"},
		"device":           {add(Entry{Path: "x", Type: 4}), "only files, directories"},
		"no type":          {add(Entry{Path: "x"}), "only files, directories"},
		"setuid":           {add(Entry{Path: "x", Type: TypeFile, Mode: 0o4755}), "setuid"},
		"setgid directory": {add(Entry{Path: "x", Type: TypeDir, Mode: 0o2755}), "setuid"},
		"sticky":           {add(Entry{Path: "x", Type: TypeDir, Mode: 0o1777}), "setuid"},
		"type in the mode": {add(Entry{Path: "x", Type: TypeFile, Mode: 0o020644}), "setuid"},
		"many entries": {func(m *Manifest) {
			for i := range MaxEntries {
				m.Entries = append(m.Entries, emptyFile("x"+strconv.Itoa(1_000_000+i)))
			}
		}, "entries, at most"},

		"directory with size":   {add(Entry{Path: "x", Type: TypeDir, Size: 1}), "what its type has not"},
		"directory with chunks": {add(Entry{Path: "x", Type: TypeDir, Chunks: chunksOf(1)}), "what its type has not"},
		"directory with digest": {add(Entry{Path: "x", Type: TypeDir, Digest: wire.Digest{1}}), "what its type has not"},
		"link with size":        {add(Entry{Path: "x", Type: TypeSymlink, Target: "bin", Size: 1}), "what its type has not"},
		"link with mode":        {add(Entry{Path: "x", Type: TypeSymlink, Target: "bin", Mode: 0o777}), "no mode"},
		"file with target":      {add(Entry{Path: "x", Type: TypeFile, Target: "bin"}), "what its type has not"},

		"link: absolute":         {link("/etc"), "out of the release"},
		"link: root":             {link("/"), "out of the release"},
		"link: out":              {link("../../../x"), "out of the release"},
		"link: to what is out":   {link("../../.."), "out of the release"},
		"link: out over a link":  {link("../../current/../../x"), "not clean"},
		"link: back over a name": {link("x/../y"), "not clean"},
		"link: empty":            {link(""), "is empty"},
		"link: not clean":        {link("./x"), "not clean"},
		"link: long":             {link(strings.Repeat("x", 1025)), "too long"},
		"link: no text":          {link("\xff"), "no text"},
		"link: zero byte":        {link("a\x00b"), "no text"},

		"chunks: less":      {func(m *Manifest) { at(m, "bin/camera").Size++ }, "chunks of"},
		"chunks: more":      {func(m *Manifest) { at(m, "bin/camera").Chunks.Add(Chunk{Size: 1}) }, "chunks of"},
		"chunks: none":      {func(m *Manifest) { at(m, "bin/camera").Chunks = nil }, "chunks of"},
		"chunks: cut off":   {func(m *Manifest) { e := at(m, "bin/camera"); e.Chunks = e.Chunks[:len(e.Chunks)-1] }, "chunks of"},
		"chunk: of nothing": {func(m *Manifest) { at(m, "bin/camera").Chunks.Add(Chunk{}) }, "chunks of"},
		"chunk: too large": {func(m *Manifest) {
			e := at(m, "bin/camera")
			e.Size, e.Chunks = wire.MaxChunk+1, chunksOf(wire.MaxChunk+1)
		}, "chunks of"},
		"chunk: wraps":       {func(m *Manifest) { e := at(m, "bin/camera"); e.Size, e.Chunks = 0, chunksOf(1<<31, 1<<31) }, "chunks of"},
		"size: does not add": {func(m *Manifest) { at(m, "bin/camera").Size = 1 << 63 }, "chunks of"},

		"patch: order":      {func(m *Manifest) { m.Patches[0], m.Patches[1] = m.Patches[1], m.Patches[0] }, "not in order"},
		"patch: twice":      {func(m *Manifest) { m.Patches[2] = m.Patches[1] }, "there twice"},
		"patch: of nothing": {func(m *Manifest) { m.Patches[0].File[5] = 1 }, "a file that is not there"},
		"patch: chunks":     {func(m *Manifest) { m.Patches[0].Size++ }, "patch 1: chunks of"},
		"patch: empty":      {func(m *Manifest) { m.Patches[0].Size, m.Patches[0].Chunks = 0, nil }, "patch 1: chunks of"},
		"patch: chunk":      {func(m *Manifest) { m.Patches[0].Size, m.Patches[0].Chunks = 1<<20, chunksOf(1<<20) }, "patch 1: chunks of"},
		"patch: large base": {func(m *Manifest) { m.Patches[0].BaseSize = MaxPatched }, "together at most"},
		"patch: base wraps": {func(m *Manifest) { m.Patches[0].BaseSize = 1<<64 - 50 }, "together at most"},
		"patch: many":       {func(m *Manifest) { m.Patches = make([]Patch, MaxPatches+1) }, "4097 patches"},
		"patch: larger than what is held": {func(m *Manifest) {
			p := &m.Patches[0]
			for p.Size, p.Chunks = 0, nil; p.Size <= MaxPatched; p.Size += wire.MaxChunk {
				p.Chunks.Add(Chunk{Size: wire.MaxChunk})
			}
		}, "patch 1: chunks of"},
	} {
		m := sample()
		c.spoil(m)
		err := m.Check()
		if !errors.Is(err, ErrManifest) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want ErrManifest with %q", name, err, c.want)
		}
		if _, _, again := m.Encode(); !errors.Is(again, ErrManifest) {
			t.Errorf("%s: it is encoded all the same", name)
		}
		if b, err := wire.Marshal(m); err == nil {
			if _, err := Decode(b); !errors.Is(err, ErrManifest) {
				t.Errorf("%s: it is decoded all the same: %v", name, err)
			}
		}
	}
}

func TestCheckRefusesFiles(t *testing.T) {
	if err := file().Check(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Manifest){
		"none":          func(m *Manifest) { m.Entries = nil },
		"two":           func(m *Manifest) { m.Entries = append(m.Entries, emptyFile("b")) },
		"a directory":   func(m *Manifest) { m.Entries = []Entry{{Path: "a", Type: TypeDir}} },
		"a link":        func(m *Manifest) { m.Entries = []Entry{{Path: "a", Type: TypeSymlink, Target: "b"}} },
		"one somewhere": func(m *Manifest) { m.Entries[0].Path = "a/b" },
	} {
		m := file()
		spoil(m)
		if err := m.Check(); !errors.Is(err, ErrManifest) {
			t.Errorf("%s: error %v, want ErrManifest", name, err)
		}
	}
}

// More than the largest release takes as many chunks as make its manifest large, so the sizes alone are added up here.
func TestCheckRefusesTooManyBytes(t *testing.T) {
	m := file()
	m.Kind, m.Entries = KindTree, nil
	var gib Chunks
	for range (1 << 30) / wire.MaxChunk {
		gib.Add(Chunk{Size: wire.MaxChunk})
	}
	for i := range 64 {
		m.Entries = append(m.Entries, Entry{Path: strconv.Itoa(100 + i), Type: TypeFile, Size: 1 << 30, Chunks: gib})
	}
	if err := m.Check(); err != nil {
		t.Fatalf("%d bytes: %v", m.Size(), err)
	}
	m.Entries = append(m.Entries, Entry{Path: "x", Type: TypeFile, Size: 1, Chunks: chunksOf(1)})
	if err := m.Check(); !errors.Is(err, ErrManifest) {
		t.Errorf("%d bytes: error %v, want ErrManifest", m.Size(), err)
	}
}

func TestEncodeRefusesALargeManifest(t *testing.T) {
	m := file()
	m.Kind, m.Entries = KindTree, nil
	for i := range 20_000 {
		m.Entries = append(m.Entries, emptyFile(strconv.Itoa(100_000+i)+strings.Repeat("x", 200)))
	}
	for i := range m.Entries {
		m.Entries[i].Size = 20
		m.Entries[i].Chunks = chunksOf(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1)
	}
	if _, _, err := m.Encode(); !errors.Is(err, ErrManifest) {
		t.Errorf("error %v, want ErrManifest", err)
	}
	if _, err := Decode(make([]byte, wire.MaxManifest+1)); !errors.Is(err, ErrManifest) {
		t.Errorf("error %v, want ErrManifest", err)
	}
}

func TestDecodeTruncated(t *testing.T) {
	b, _, err := sample().Encode()
	if err != nil {
		t.Fatal(err)
	}
	for n := range b {
		if _, err := Decode(b[:n:n]); !errors.Is(err, ErrManifest) {
			t.Fatalf("cut at %d of %d: error %v, want ErrManifest", n, len(b), err)
		}
	}
}

// A manifest that names a kind, check or type that this build does not know is for a newer one: it is refused and not half understood. So is
// one with keys that it does not know.
func TestDecodeRefusesUnknownKeys(t *testing.T) {
	b, err := wire.Marshal(map[int]any{1: 1, 2: "a", 3: "1", 4: 1, 5: 1, 6: map[int]any{}, 11: []any{}, 99: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Decode(b); !errors.Is(err, ErrManifest) {
		t.Errorf("error %v, want ErrManifest", err)
	}
}

// Small as it may be, a manifest can have as many elements as its arrays may; what they take is bounded all the same.
func TestDecodeBombCostsLittle(t *testing.T) {
	full := func(element any) []any { return slices.Repeat([]any{element}, 1<<16) }
	empty, texts := full(map[int]any{}), full("")
	b, err := wire.Marshal(map[int]any{6: map[int]any{1: texts, 2: texts, 3: texts, 5: texts}, 7: empty, 11: empty, 12: empty})
	if err != nil {
		t.Fatal(err)
	}
	if n := allocated(func() { _, err = Decode(b) }); n > 64<<20 {
		t.Errorf("%d bytes cost %d", len(b), n)
	}
	if !errors.Is(err, ErrManifest) {
		t.Errorf("error %v, want ErrManifest", err)
	}
}

func TestChunks(t *testing.T) {
	c := chunksOf(5, 1, wire.MaxChunk)
	if c.Len() != 3 || c.At(2) != (Chunk{wire.Digest{3}, wire.MaxChunk}) {
		t.Errorf("%d chunks, the last is %v", c.Len(), c.At(2))
	}
	var offsets []uint64
	for off, x := range c.All() {
		if offsets = append(offsets, off); x.Size == 1 {
			break
		}
	}
	if !reflect.DeepEqual(offsets, []uint64{0, 5}) {
		t.Errorf("offsets %v", offsets)
	}
}

// What decodes is what its bytes say, to the last: a signature over the bytes is one over what is installed.
func FuzzDecode(f *testing.F) {
	for _, m := range []*Manifest{sample(), file()} {
		b, _, err := m.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Decode(b)
		if err != nil {
			if !errors.Is(err, ErrManifest) {
				t.Fatalf("error %v is not ErrManifest", err)
			}
			return
		}
		again, d, err := m.Encode()
		if err != nil || string(again) != string(b) || d != wire.DigestOf(b) {
			t.Fatalf("%x reads as %+v, which is %x, error %v", b, m, again, err)
		}
	})
}
