package settings

import "path/filepath"

// LastGood is how the configuration that Envoy acknowledged is kept for a start without the control plane.
type LastGood struct {
	// Dir is where the file lies (EVERMESH_STATE_DIR): it is made when it is not there. "" is DefaultStateDir if that is
	// there, else nowhere.
	Dir string
	// MemoryOnly keeps nothing on disk (EVERMESH_STATE_DIR=none): only an Envoy that this agent starts again profits.
	MemoryOnly bool
	// KeyFile holds a key of at least 32 bytes (EVERMESH_STATE_KEY_FILE) that opens what is sealed in the file, beside
	// what proves who the agent is.
	KeyFile string
}

// DefaultStateDir is where the images have a directory for it.
const DefaultStateDir = "/var/lib/evermesh-agent"

func (v *variables) lastGood() LastGood {
	l := LastGood{Dir: v.text("EVERMESH_STATE_DIR", ""), KeyFile: v.text("EVERMESH_STATE_KEY_FILE", "")}
	switch {
	case l.Dir == "none":
		l.Dir, l.MemoryOnly = "", true
	case l.Dir != "" && !filepath.IsAbs(l.Dir):
		v.warn("EVERMESH_STATE_DIR=%q is neither none nor the path of a directory from the root: the default is used", l.Dir)
		l.Dir = ""
	}
	return l
}
