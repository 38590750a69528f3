package archtest

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// A File is what the rules look at in one Go file.
type File struct {
	Dir     string // slash-separated, relative to the module's root
	Name    string
	Package string // the name in its package clause
	Test    bool
	Doc     bool // it has a package comment
	Lines   int
	Imports []string
	Clock   []string // what it takes from package time that reads or waits for the clock, such as "Now"
	Go      bool     // it starts goroutines
}

// path is the file's place for messages.
func (f *File) path() string { return path.Join(f.Dir, f.Name) }

// area is the first element of the directory; "" for the root.
func (f *File) area() string {
	a, _, _ := strings.Cut(f.Dir, "/")
	if a == "." {
		return ""
	}
	return a
}

// Parse reads every Go file of a module, whatever system it is built for. Directories that the go command ignores are left
// out. The error names the file that does not parse.
func Parse(module fs.FS) ([]File, error) {
	var files []File
	err := fs.WalkDir(module, ".", func(p string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir() && p != "." && ignored(e.Name()):
			return fs.SkipDir
		case e.IsDir() || path.Ext(p) != ".go":
			return nil
		}
		src, err := fs.ReadFile(module, p)
		if err != nil {
			return err
		}
		f, err := parse(p, src)
		if err != nil {
			return fmt.Errorf("parse %s: %w", p, err)
		}
		files = append(files, f)
		return nil
	})
	return files, err
}

func ignored(dir string) bool {
	return dir == "testdata" || dir == "vendor" || strings.HasPrefix(dir, ".") || strings.HasPrefix(dir, "_")
}

func parse(p string, src []byte) (File, error) {
	syntax, err := parser.ParseFile(token.NewFileSet(), p, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return File{}, err
	}
	f := File{
		Dir: path.Dir(p), Name: path.Base(p), Package: syntax.Name.Name, Test: strings.HasSuffix(p, "_test.go"),
		Doc: syntax.Doc != nil && strings.TrimSpace(syntax.Doc.Text()) != "", Lines: bytes.Count(src, []byte("\n")),
	}
	clock := ""
	for _, im := range syntax.Imports {
		to, err := strconv.Unquote(im.Path.Value)
		if err != nil {
			return File{}, err
		}
		f.Imports = append(f.Imports, to)
		if to == "time" {
			clock = "time"
			if im.Name != nil {
				clock = im.Name.Name
			}
		}
	}
	if clock == "." {
		f.Clock = append(f.Clock, "everything, by a dot import")
	}
	ast.Inspect(syntax, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			f.Go = true
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && x.Name == clock && readsClock[n.Sel.Name] {
				f.Clock = append(f.Clock, n.Sel.Name)
			}
		}
		return true
	})
	return f, nil
}

// readsClock names what package time offers that depends on when it is called.
var readsClock = map[string]bool{
	"Now": true, "Since": true, "Until": true, "Sleep": true, "After": true, "AfterFunc": true, "Tick": true, "NewTimer": true,
	"NewTicker": true,
}
