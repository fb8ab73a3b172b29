// What plugin_test loads.
extern "C" {
#ifdef OTHER_SOURCES
__attribute__((visibility("default"))) extern const char FairwayPluginSources[] = OTHER_SOURCES;
#endif
__attribute__((visibility("default"))) int FairwayTestAnswer() { return 42; }
}
