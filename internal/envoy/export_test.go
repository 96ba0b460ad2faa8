package envoy

// ProgramSize is what the guard of patterns counts.
var ProgramSize = programSize
