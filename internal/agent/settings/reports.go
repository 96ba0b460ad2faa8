package settings

import (
	"math"
	"strconv"
)

// Reports are what the agent keeps of what it and Envoy tell: the minutes of the metrics extension's statistics, and a log
// file.
type Reports struct {
	Snapshots bool // of statistics, each minute
	LogFile   LogFile
}

// LogFile is where Envoy's and the agent's output goes together; without a directory it goes to the standard streams.
type LogFile struct {
	Directory string
	Name      string
	MaxBytes  int64 // of one file
	Keep      int   // full files beside it
}

const (
	mebibyte     = 1 << 20
	maxLogMiB    = 1 << 20
	maxKeptFiles = 10_000
)

func (v *variables) reports() Reports {
	return Reports{
		Snapshots: v.softBool("ENABLE_STATS_SNAPSHOT", false),
		LogFile: LogFile{
			Directory: v.text("APPNET_ENVOY_LOG_DESTINATION", ""),
			Name:      v.text("APPNET_ENVOY_LOG_NAME", "appnet_envoy.log"),
			MaxBytes:  int64(v.softFloat("APPNET_AGENT_MAX_LOG_FILE_SIZE", 1, 0, maxLogMiB) * mebibyte),
			Keep:      v.softInt("APPNET_AGENT_MAX_RETENTION_COUNT", 5, 0, maxKeptFiles),
		},
	}
}

// softFloat takes values above low and up to high.
func (v *variables) softFloat(name string, fallback, low, high float64) float64 {
	s := v.text(name, "")
	if s == "" {
		return fallback
	}
	n, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(n) || n <= low || n > high {
		v.warn("%s=%q is not a number above %g and up to %g: %g is used", name, s, low, high, fallback)
		return fallback
	}
	return n
}
