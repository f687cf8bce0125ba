package rotate

// Look is what could be seen of some files at one time without reading them. Two looks that are equal are of files that
// nobody changed: each change of a file moves its ctime, which nobody can set.
type Look struct{ files []glance }

// LookAt looks at files. It costs two system calls for each, and two for each link.
func LookAt(paths []string) Look {
	files := make([]glance, len(paths))
	for i, path := range paths {
		files[i] = glanceAt(path)
	}
	return Look{files}
}

// Changed returns those of the files of a later look that are not what they were, among them all that were not looked
// at before.
func (l Look) Changed(now Look) []string {
	before := make(map[string]glance, len(l.files))
	for _, file := range l.files {
		before[file.path] = file
	}
	var changed []string
	for _, file := range now.files {
		if was, known := before[file.path]; !known || was != file {
			changed = append(changed, file.path)
		}
	}
	return changed
}

// found is a kind of what is found under a name.
type found int

const (
	nothing found = iota // or what cannot be looked at
	aFile                // or anything else
	aDirectory
	aLink
)
