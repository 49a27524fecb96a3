import CLinux

/// Returns the memory that malloc has free to the system, if it was not asked to in the last 50 ms. Otherwise the process would hold
/// what earlier work took.
public func returnFreeMemory() { espalier_return_free_memory() }
