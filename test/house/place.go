package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"strings"
)

// place is one spot of a source file and what to put there instead.
type place struct {
	file       string
	from, to   int // byte offsets of what is replaced
	with, what string
}

func (p place) apply(source []byte) []byte {
	return []byte(string(source[:p.from]) + p.with + string(source[p.to:]))
}

// opposite names the operator that turns a decision around and still compiles.
var opposite = map[token.Token]string{
	token.EQL: "!=", token.NEQ: "==", token.LSS: ">=", token.GEQ: "<", token.GTR: "<=", token.LEQ: ">",
	token.LAND: "||", token.LOR: "&&", token.ADD: "-", token.SUB: "+",
}

// findPlaces lists every place of the packages that can be broken, in an order
// that the seed decides.
func findPlaces(root string, packages []string, seed uint64) ([]place, error) {
	var out []place
	for _, pkg := range packages {
		files, err := filepath.Glob(filepath.Join(root, pkg, "*.go"))
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") || strings.HasSuffix(file, "_gen.go") {
				continue
			}
			found, err := placesIn(file)
			if err != nil {
				return nil, err
			}
			out = append(out, found...)
		}
	}
	r := rand.New(rand.NewPCG(seed, 0))
	r.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out, nil
}

func placesIn(file string) ([]place, error) {
	set := token.NewFileSet()
	tree, err := parser.ParseFile(set, file, nil, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var out []place
	add := func(at token.Pos, length int, with, was string) {
		p := set.Position(at)
		out = append(out, place{
			file: file, from: p.Offset, to: p.Offset + length, with: with,
			what: fmt.Sprintf("line %d: %s became %s", p.Line, was, with),
		})
	}
	ast.Inspect(tree, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BinaryExpr:
			// A sum of strings has no difference; such a change does not compile,
			// which counts as noticed and wastes a try.
			if with := opposite[n.Op]; with != "" && !isText(n.X) && !isText(n.Y) {
				add(n.OpPos, len(n.Op.String()), with, n.Op.String())
			}
		case *ast.BasicLit:
			if v, err := strconv.Atoi(n.Value); n.Kind == token.INT && err == nil {
				add(n.ValuePos, len(n.Value), strconv.Itoa(v+1), n.Value)
			}
		case *ast.Ident:
			if n.Name == "true" || n.Name == "false" {
				add(n.NamePos, len(n.Name), strconv.FormatBool(n.Name == "false"), n.Name)
			}
		case *ast.BranchStmt:
			if n.Tok == token.CONTINUE && n.Label == nil {
				add(n.TokPos, len("continue"), "break", "continue")
			}
		}
		return true
	})
	return out, nil
}

func isText(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.BasicLit:
		return e.Kind == token.STRING
	case *ast.BinaryExpr:
		return isText(e.X) || isText(e.Y)
	}
	return false
}
