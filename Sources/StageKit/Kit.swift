// What a stage is made with, from whichever room it comes. A stage imports EspalierStageKit and nothing else of espalier, unless it is
// a built-in one with kernels of its own.

// Models, matrices and masks.
@_exported import enum EspalierCore.DType
@_exported import struct EspalierCore.Device
@_exported import struct EspalierCore.Digest
@_exported import struct EspalierCore.EspalierError
@_exported import enum EspalierCore.JSON
@_exported import struct EspalierCore.JSONObject
@_exported import struct EspalierCore.Mask
@_exported import struct EspalierCore.Matrix
@_exported import struct EspalierCore.ModelOutline
@_exported import enum EspalierCore.Precision
@_exported import enum EspalierCore.SparsityPattern
@_exported import struct EspalierCore.TokenRows
@_exported import struct EspalierCore.WindowShards
@_exported import struct EspalierIO.Checkpoint
@_exported import enum EspalierIO.CheckpointTensor
// Weights, Gram matrices, scores and losses.
@_exported import struct EspalierKernels.GramMatrix
@_exported import struct EspalierKernels.LinearWeight
@_exported import struct EspalierKernels.Loss
@_exported import typealias EspalierKernels.RowScores
@_exported import enum EspalierKernels.Saliency
@_exported import struct EspalierKernels.TargetShift
// What it reports.
@_exported import struct EspalierPipeline.AllocationReport
@_exported import protocol EspalierPipeline.AllocationStage
// What it plans with, and what it is given to work on a unit.
@_exported import enum EspalierPipeline.ArtifactKind
@_exported import struct EspalierPipeline.ComparisonReport
@_exported import struct EspalierPipeline.CorpusReport
@_exported import protocol EspalierPipeline.CorpusStage
@_exported import struct EspalierPipeline.EvaluationReport
@_exported import protocol EspalierPipeline.EvaluationStage
@_exported import struct EspalierPipeline.FactorReport
@_exported import struct EspalierPipeline.FileMix
@_exported import struct EspalierPipeline.HiddenReport
@_exported import struct EspalierPipeline.Job
@_exported import struct EspalierPipeline.JobOutput
@_exported import struct EspalierPipeline.JobSources
@_exported import struct EspalierPipeline.MatrixReport
@_exported import protocol EspalierPipeline.MatrixStage
@_exported import struct EspalierPipeline.MethodStep
@_exported import struct EspalierPipeline.ModelScores
@_exported import struct EspalierPipeline.ModuleName
@_exported import enum EspalierPipeline.NumberOrWord
@_exported import struct EspalierPipeline.OneRank
@_exported import struct EspalierPipeline.OutputReport
@_exported import protocol EspalierPipeline.OutputStage
// The stage: what it is called, what can be set, when it runs.
@_exported import struct EspalierPipeline.Parameters
@_exported import struct EspalierPipeline.PerplexityReport
@_exported import enum EspalierPipeline.PlannedPattern
@_exported import enum EspalierPipeline.Propagation
@_exported import protocol EspalierPipeline.Ranks
@_exported import struct EspalierPipeline.Recipe
@_exported import enum EspalierPipeline.Repair
@_exported import enum EspalierPipeline.Retention
@_exported import struct EspalierPipeline.RunHistory
@_exported import protocol EspalierPipeline.SiteSink
@_exported import protocol EspalierPipeline.SiteStage
@_exported import protocol EspalierPipeline.SourceStage
@_exported import protocol EspalierPipeline.Stage
@_exported import protocol EspalierPipeline.StageDefinition
@_exported import struct EspalierPipeline.StageDescriptor
@_exported import enum EspalierPipeline.StageRole
@_exported import enum EspalierPipeline.Target
@_exported import struct EspalierPipeline.TaskReport
@_exported import struct EspalierPipeline.Unit
@_exported import struct EspalierPipeline.UnitContext
@_exported import struct EspalierPipeline.UnitResult
@_exported import struct EspalierPipeline.UnitSizes
@_exported import struct EspalierPipeline.Work
@_exported import struct EspalierPipeline.WorkingSet
@_exported import func EspalierPipeline.nearest
