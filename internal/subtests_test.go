package internal

import (
	"go/ast"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// testFolder is what the tests of one folder declare.
type testFolder struct {
	functions map[string]*ast.FuncDecl
	values    map[string]ast.Expr         // of package-level variables
	structs   map[string]*ast.StructType  // by type name
	cases     map[string]string           // first line, by a case's path below the folder
	names     map[string][]*regexp.Regexp // what subtests found, by function
}

func newTestFolder() *testFolder {
	return &testFolder{map[string]*ast.FuncDecl{}, map[string]ast.Expr{}, map[string]*ast.StructType{}, map[string]string{}, map[string][]*regexp.Regexp{}}
}

// add takes a file's declarations.
func (d *testFolder) add(f *ast.File) {
	for _, decl := range f.Decls {
		switch decl := decl.(type) {
		case *ast.FuncDecl:
			if decl.Recv == nil {
				d.functions[decl.Name.Name] = decl
			}
		case *ast.GenDecl:
			for _, spec := range decl.Specs {
				switch spec := spec.(type) {
				case *ast.ValueSpec:
					for i, name := range spec.Names {
						if i < len(spec.Values) {
							d.values[name.Name] = spec.Values[i]
						}
					}
				case *ast.TypeSpec:
					if s, ok := spec.Type.(*ast.StructType); ok {
						d.structs[spec.Name.Name] = s
					}
				}
			}
		}
	}
}

// subtests are the names of a test's parts, at any depth: those that it, and the functions of the folder that it calls,
// give to Run. A name that the program puts together is what can be told of it; one of which nothing can be told is left
// out.
func (d *testFolder) subtests(function string) []*regexp.Regexp {
	names, known := d.names[function]
	if known {
		return names
	}
	all := d.reached(function, nil)
	for _, fn := range all {
		s := scope{d, fn, all}
		ast.Inspect(fn.Body, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) != 2 {
				return true
			}
			if run, ok := call.Fun.(*ast.SelectorExpr); ok && run.Sel.Name == "Run" {
				for _, pattern := range s.texts(call.Args[0]) {
					if told.MatchString(strings.ReplaceAll(pattern, anything, "")) {
						names = append(names, regexp.MustCompile("^"+pattern+"$"))
					}
				}
			}
			return true
		})
	}
	d.names[function] = names
	return names
}

// reached are a function and those of the folder that it calls, other tests left out.
func (d *testFolder) reached(function string, before []*ast.FuncDecl) []*ast.FuncDecl {
	fn := d.functions[function]
	if fn == nil || fn.Body == nil || slices.Contains(before, fn) {
		return before
	}
	before = append(before, fn)
	ast.Inspect(fn.Body, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok {
			if name, ok := call.Fun.(*ast.Ident); ok && !strings.HasPrefix(name.Name, "Test") {
				before = d.reached(name.Name, before)
			}
		}
		return true
	})
	return before
}

// anything is the pattern of what cannot be told.
const anything = ".+"

var (
	told       = regexp.MustCompile(`[A-Za-z]`)
	formatVerb = regexp.MustCompile(`%[^a-zA-Z%]*[a-zA-Z]`)
)

// scope is a function, with those that call it.
type scope struct {
	*testFolder
	fn  *ast.FuncDecl
	all []*ast.FuncDecl
}

// texts are patterns of what an expression can be.
func (s scope) texts(e ast.Expr) []string {
	if text, ok := quoted(e); ok {
		return []string{regexp.QuoteMeta(text)}
	}
	switch e := e.(type) {
	case *ast.ParenExpr:
		return s.texts(e.X)
	case *ast.BinaryExpr:
		var both []string
		for _, left := range s.texts(e.X) {
			for _, right := range s.texts(e.Y) {
				both = append(both, left+right)
			}
		}
		return both
	case *ast.CallExpr:
		if name, ok := e.Fun.(*ast.SelectorExpr); ok && name.Sel.Name == "Sprintf" {
			if format, ok := quoted(e.Args[0]); ok {
				parts := formatVerb.Split(format, -1)
				for i, part := range parts {
					parts[i] = regexp.QuoteMeta(part)
				}
				return []string{strings.Join(parts, anything)}
			}
		}
	case *ast.SelectorExpr:
		if of, ok := e.X.(*ast.Ident); ok {
			return orAnything(s.column(of.Name, e.Sel.Name))
		}
	case *ast.Ident:
		return orAnything(append(append(s.column(e.Name, ""), s.arguments(e.Name)...), s.firstLines(e.Name)...))
	}
	return []string{anything}
}

func orAnything(texts []string) []string {
	if len(texts) == 0 {
		return []string{anything}
	}
	return texts
}

// column are the texts that a variable of a loop over a table takes, or one field of it.
func (s scope) column(variable, field string) (texts []string) {
	ast.Inspect(s.fn.Body, func(n ast.Node) bool {
		loop, ok := n.(*ast.RangeStmt)
		if !ok {
			return true
		}
		table := s.table(loop.X)
		switch {
		case table == nil:
		case isIdent(loop.Key, variable) && field == "":
			for _, row := range table.Elts {
				if pair, ok := row.(*ast.KeyValueExpr); ok {
					texts = append(texts, s.texts(pair.Key)...)
				}
			}
		case isIdent(loop.Value, variable):
			texts = append(texts, s.cells(table, field)...)
		}
		return true
	})
	return texts
}

// table is what a loop goes over, if it is written down.
func (s scope) table(e ast.Expr) *ast.CompositeLit {
	name, ok := e.(*ast.Ident)
	if !ok {
		table, _ := e.(*ast.CompositeLit)
		return table
	}
	table, _ := s.values[name.Name].(*ast.CompositeLit)
	ast.Inspect(s.fn.Body, func(n ast.Node) bool {
		if set, ok := n.(*ast.AssignStmt); ok && len(set.Lhs) == len(set.Rhs) {
			for i, left := range set.Lhs {
				if of, ok := set.Rhs[i].(*ast.CompositeLit); ok && isIdent(left, name.Name) {
					table = of
				}
			}
		}
		return true
	})
	return table
}

// cells are a table's rows, or one field of each.
func (s scope) cells(table *ast.CompositeLit, field string) (texts []string) {
	place := -1
	if of, ok := table.Type.(*ast.ArrayType); ok {
		place = s.place(of.Elt, field)
	} else if of, ok := table.Type.(*ast.MapType); ok {
		place = s.place(of.Value, field)
	}
	for _, row := range table.Elts {
		if pair, ok := row.(*ast.KeyValueExpr); ok {
			row = pair.Value
		}
		cells, ok := row.(*ast.CompositeLit)
		switch {
		case field == "":
			if _, ok := quoted(row); ok {
				texts = append(texts, s.texts(row)...)
			}
			continue
		case !ok:
			continue
		}
		for i, cell := range cells.Elts {
			pair, keyed := cell.(*ast.KeyValueExpr)
			if keyed && isIdent(pair.Key, field) {
				texts = append(texts, s.texts(pair.Value)...)
			}
			if !keyed && i == place {
				texts = append(texts, s.texts(cell)...)
			}
		}
	}
	return texts
}

// place is where a struct has a field, or -1.
func (s scope) place(e ast.Expr, field string) int {
	of, _ := e.(*ast.StructType)
	if name, ok := e.(*ast.Ident); ok {
		of = s.structs[name.Name]
	}
	if of == nil {
		return -1
	}
	i := 0
	for _, f := range of.Fields.List {
		for _, name := range f.Names {
			if name.Name == field {
				return i
			}
			i++
		}
	}
	return -1
}

// arguments are the texts that are given for a parameter: of this function, or of one that it makes.
func (s scope) arguments(parameter string) (texts []string) {
	given := func(name string, of *ast.FuncType) {
		i := 0
		for _, f := range of.Params.List {
			for _, p := range f.Names {
				if p.Name == parameter {
					for _, fn := range s.all {
						texts = append(texts, givenTo(scope{s.testFolder, fn, s.all}, name, i)...)
					}
				}
				i++
			}
		}
	}
	given(s.fn.Name.Name, s.fn.Type)
	ast.Inspect(s.fn.Body, func(n ast.Node) bool {
		if set, ok := n.(*ast.AssignStmt); ok && len(set.Lhs) == 1 && len(set.Rhs) == 1 {
			if made, ok := set.Rhs[0].(*ast.FuncLit); ok {
				if name, ok := set.Lhs[0].(*ast.Ident); ok {
					given(name.Name, made.Type)
				}
			}
		}
		return true
	})
	return texts
}

// givenTo are the texts that a function gives to another one in one place.
func givenTo(s scope, function string, place int) (texts []string) {
	ast.Inspect(s.fn.Body, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok && isIdent(call.Fun, function) && place < len(call.Args) {
			if _, ok := call.Args[place].(*ast.Ident); !ok { // which could be the parameter itself
				texts = append(texts, s.texts(call.Args[place])...)
			}
		}
		return true
	})
	return texts
}

// firstLines are those of the cases that the test reads, for a variable that strings.Cut made of a case's comment.
func (s scope) firstLines(variable string) (texts []string) {
	cut := false
	ast.Inspect(s.fn.Body, func(n ast.Node) bool {
		if set, ok := n.(*ast.AssignStmt); ok && len(set.Lhs) == 3 && isIdent(set.Lhs[0], variable) {
			call, ok := set.Rhs[0].(*ast.CallExpr)
			cut = cut || ok && isCall(call, "Cut")
		}
		return true
	})
	if !cut {
		return nil
	}
	for _, fn := range s.all {
		ast.Inspect(fn.Body, func(n ast.Node) bool {
			if glob, ok := quoted(n); ok && strings.HasSuffix(glob, ".txtar") {
				for path, line := range s.cases {
					if match, err := filepath.Match(glob, path); err == nil && match {
						texts = append(texts, regexp.QuoteMeta(line))
					}
				}
			}
			return true
		})
	}
	return texts
}

func isIdent(e ast.Expr, name string) bool {
	i, ok := e.(*ast.Ident)
	return ok && i.Name == name
}

func isCall(call *ast.CallExpr, method string) bool {
	s, ok := call.Fun.(*ast.SelectorExpr)
	return ok && s.Sel.Name == method
}
