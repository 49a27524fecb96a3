import EspalierCommand

EspalierCommand.main(adding: [RandomMask.self, OneSwap.self, WeightChange.self])
