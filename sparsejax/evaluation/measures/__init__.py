"""The measures of sparsejax, one file each; a new file here is all that a new measure takes."""
