import CLinux

/// Returns the memory that malloc has free to the system, at most every 50 ms. Without it the process would hold what earlier work
/// took.
public func returnFreeMemory() { espalier_return_free_memory() }
