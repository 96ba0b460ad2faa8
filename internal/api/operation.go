package api

// Operation is one row of the generated operation tables: the name and where it
// is reached. Pattern is the model's URI template and a valid pattern of
// http.ServeMux.
type Operation struct {
	Name, Method, Pattern string
}
