package api

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// Timestamp is a point in time that travels as JSON number: seconds since the
// epoch with milliseconds, the only form that the SDKs read (API-012).
type Timestamp struct{ time.Time }

// MarshalJSON writes epoch seconds with at most three decimals.
func (t Timestamp) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, float64(t.UnixMilli())/1000, 'f', -1, 64), nil
}

// UnmarshalJSON reads epoch seconds.
func (t *Timestamp) UnmarshalJSON(b []byte) error {
	var seconds float64
	if err := json.Unmarshal(b, &seconds); err != nil {
		return fmt.Errorf("timestamp: %w", err)
	}
	t.Time = time.UnixMilli(int64(seconds*1000 + 0.5)).UTC()
	return nil
}
