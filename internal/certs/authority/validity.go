package authority

import (
	"fmt"
	"strconv"
	"time"

	"github.com/evermesh/evermesh/internal/api/pcaapi"
)

// skew is how long before its issue a certificate is valid, so that clocks may
// differ; as in AWS.
const skew = time.Hour

// End is when a certificate that is issued at now ends.
func End(v pcaapi.Validity, now time.Time) (time.Time, error) {
	n := int(v.Value)
	if v.Type != pcaapi.ValidityPeriodTypeAbsolute && v.Type != pcaapi.ValidityPeriodTypeEndDate && (v.Value < 1 || v.Value > 200*366) {
		return time.Time{}, fmt.Errorf("validity of %d %s is out of range", v.Value, v.Type)
	}
	switch v.Type {
	case pcaapi.ValidityPeriodTypeDays:
		return now.AddDate(0, 0, n), nil
	case pcaapi.ValidityPeriodTypeMonths:
		return now.AddDate(0, n, 0), nil
	case pcaapi.ValidityPeriodTypeYears:
		return now.AddDate(n, 0, 0), nil
	}
	return Instant(v)
}

// Instant is the time that a validity of type ABSOLUTE (Unix seconds) or END_DATE
// (YYYYMMDDHHMMSS, or YYMMDDHHMMSS up to 2049) names.
func Instant(v pcaapi.Validity) (time.Time, error) {
	switch v.Type {
	case pcaapi.ValidityPeriodTypeAbsolute:
		if v.Value > 0 && v.Value < 253402300800 { // the year 10000
			return time.Unix(v.Value, 0).UTC(), nil
		}
		return time.Time{}, fmt.Errorf("validity %d is no time in seconds", v.Value)
	case pcaapi.ValidityPeriodTypeEndDate:
		text := strconv.FormatInt(v.Value, 10)
		for len(text) < 12 {
			text = "0" + text // of the years 2000 to 2009, as a number
		}
		layout := "20060102150405"
		if len(text) == 12 {
			layout = "060102150405"
		}
		t, err := time.Parse(layout, text)
		if err != nil || t.Year() < 1970 {
			return time.Time{}, fmt.Errorf("validity %d is no date: want YYYYMMDDHHMMSS", v.Value)
		}
		return t, nil
	}
	return time.Time{}, fmt.Errorf("validity type %s names no point in time: want ABSOLUTE or END_DATE", v.Type)
}
