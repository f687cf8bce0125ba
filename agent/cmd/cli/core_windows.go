package cli

// forbidCoreFiles does nothing: whether a crashed program's memory is written to disk is for the administrators to say
// here (Windows Error Reporting's LocalDumps), for all programs, and by default it is not.
func forbidCoreFiles() {}
