import EspalierCommand

EspalierCommand.main()
